"""The result of an evaluation as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ai_pipeline.chest.calls.operating_points import UNSURE
from ai_training.text import NOT_DIAGNOSTIC, interval

BASELINES = {"hog": "HOG + kernel ridge", "age_sex_view": "age, sex, view", "source": "source alone"}


def as_text(result: Mapping[str, Any]) -> str:
    """Every figure of :func:`ai_training.evaluation.evaluate.evaluate_chest`, curves left out."""
    parts = (
        _headline,
        _labels,
        _called,
        _operating_points,
        _sources,
        _calibration,
        _subgroups,
        _teacher,
        _boxes,
    )
    lines = [line for part in parts for line in part(result)]
    return "\n".join([*lines, *saliency_lines(result["saliency"]), *_gate(result), NOT_DIAGNOSTIC])


def _headline(result: Mapping[str, Any]) -> Iterator[str]:
    main, model, data = result["main"], result["model"], result["data"]
    yield f"{model['id']} {model['version']} on {data['main']}, split {result['split']}"
    yield f"  {main['images']} images of {main['patients']} adults"
    yield from (f"  {note}" for note in data["notes"])
    if result["labels_left_out"]:
        yield f"  not measured, unknown to the model: {', '.join(result['labels_left_out'])}"
    yield f"mean AUC of {len(main['labels_counted'])} labels  {interval(main['mean_auc'])}"
    yield from _against(main, "mean_auc_", "difference_to_")
    children = result["with_children"]
    yield (
        f"  children included: {children['images']} images, {children['under_16_or_of_unknown_age']} of them "
        f"under {children['youngest']} years or of unknown age: {interval(children['mean_auc'])}"
    )
    yield f"  labels dealt out at random (must be .5): {interval(result['permuted_labels'])}"
    within = result["within_source"]
    yield f"mean of {within['cells']} within-source AUCs  {interval(within['model'])}"
    yield from _against(within, "", "difference_to_")
    for name, row in result["probes"].items():
        labels = ", ".join(f"{label} {auc:.2f}" for label, auc in row["pooled_auc"].items() if auc >= 0.7)
        yield (
            f"pooled over sources, {BASELINES[name]} reaches {interval(row['mean_pooled_auc'])}"
            + (f" ({labels})" if labels else "")
        )


def _against(row: Mapping[str, Any], prefix: str, difference: str) -> Iterator[str]:
    for name, title in BASELINES.items():
        if f"{difference}{name}" in row:
            auc, gain = interval(row[f"{prefix}{name}"]), interval(row[f"{difference}{name}"])
            yield f"  {title}: {auc}, difference {gain}"


def _labels(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'label':19}{'n':>4}  {'AUC':22}{'average precision':22}{'present: sens / spec':18}"
    for row in result["main"]["labels"]:
        present = f"{_short(row['sensitivity_present'])} / {_short(row['specificity_present'])}"
        yield (
            f"{row['label']:19}{row['positives']:4}  {interval(row['auc']):22}"
            f"{interval(row['average_precision']):22}{present}{'' if row['supported'] else '  not supported'}"
        )


def _called(result: Mapping[str, Any]) -> Iterator[str]:
    called = result["called"]
    top = called["top3"]
    yield f"one of the top three labels is right: {interval(top['all_labels'])}" + (
        f", the three most frequent labels for everyone {interval(top['constant'])}"
        if "constant" in top
        else ""
    )
    if "all_findings" in called:
        row = called["all_findings"]
        yield (
            f"all findings of {len(called['labels'])} supported labels: "
            f"precision {interval(row['precision'])}, recall {interval(row['recall'])}, "
            f"{row['called_per_image']} an image; of {row['images_without_finding']} images without finding "
            f"{interval(row['of_these_called'])} get one"
        )


def _operating_points(result: Mapping[str, Any]) -> Iterator[str]:
    chosen, tested = result["operating_points"]["chosen"], result["operating_points"]["tested"]
    for point in (name for name, row in tested.items() if isinstance(row, Mapping) and "labels" in row):
        row, thresholds = tested[point], chosen.get(point, {}).get("labels", {})
        yield (
            f"{point}, all sources, {tested['images']} images: of {tested['without_finding']} without any "
            f"finding {interval(row['without_finding_called'])} get one"
        )
        yield from (f"    of {source} {interval(alarms)}" for source, alarms in row["sources"].items())
        for name, cell in row["labels"].items():
            cut = f"from {interval(thresholds[name]['threshold'])}  " if name in thresholds else ""
            yield (
                f"    {name:19}{cut}sensitivity {interval(cell['sensitivity'])}  specificity "
                f"{interval(cell['specificity'])}  likelihood ratios {interval(cell['present_ratio'])}, "
                f"absent {interval(cell['absent_ratio'])}  "
                f"{_words(result['operating_points']['words'][point][name])}"
            )

    if unsure := tested.get(UNSURE):
        yield (
            f"unsure as a whole on {interval(unsure['share'])} of the images: mean AUC there "
            f"{interval(unsure['mean_auc'])}, on the others {interval(unsure['mean_auc_others'])}"
        )


def _words(row: Mapping[str, Any]) -> str:
    """How many calls are right at a prevalence, and the words that follow."""
    right = f"right {interval(row['right'])} at prevalence {row['prevalence']:.3f}  " if row["right"] else ""
    may = [
        word
        for word, allowed in (("suspected", row["suspected"]), ("not found", row["not_found"]))
        if allowed
    ]
    return f"{right}{' and '.join(may) or 'not assessed'}"


def _sources(result: Mapping[str, Any]) -> Iterator[str]:
    for row in result["sources"]:
        yield f"source {row['source']}: {row['images']} images, {row['patients']} patients"
        yield f"  mean AUC of {len(row['labels'])} labels {interval(row['mean_auc'])}"
        for name, cell in row["labels"].items():
            yield f"    {name:19}{cell['positives']:4}  {interval(cell['auc'])}"
        yield from (f"    {name}: left out, {why}" for name, why in row["left_out"].items())


def _calibration(result: Mapping[str, Any]) -> Iterator[str]:
    for name, found in result["calibration"].items():
        kind = "natural prevalence" if found["natural_prevalence"] else "chosen by disease"
        yield f"calibration on {name} ({kind}), {found['images']} images"
        yield f"  mean ECE {interval(found.get('mean_ece'))}, mean Brier {interval(found.get('mean_brier'))}"
        for label, row in found["labels"].items():
            yield (
                f"    {label:19}prevalence {found['prevalence'][label]:.3f}  ECE {interval(row['ece'])}  "
                f"Brier {interval(row['brier'])}  slope {interval(row['slope'])}  "
                f"intercept {interval(row['intercept'])}"
            )


def _subgroups(result: Mapping[str, Any]) -> Iterator[str]:
    for name, rows in result["subgroups"].items():
        for row in rows:
            if not row["labels"]:
                continue
            yield f"{name}, {row['attribute']} {row['group']}: {row['images']} images"
            if row["labels_of_mean"]:
                yield f"  mean AUC of {len(row['labels_of_mean'])} labels {interval(row['mean_auc'])}"
            for label, cell in row["labels"].items():
                yield f"    {label:19}{cell['positives']:4}  {interval(cell['auc'])}"


def _teacher(result: Mapping[str, Any]) -> Iterator[str]:
    for name, row in result["teacher"].get("sources", {}).items():
        yield (
            f"beside the teacher on {row['images']} images of {name}, {len(row['labels'])} labels: "
            f"model {interval(row['model'])}, teacher {interval(row['teacher'])}, "
            f"difference {interval(row['difference'])}"
        )
    if result["teacher"]:
        yield f"  {result['teacher']['note']}"


def _boxes(result: Mapping[str, Any]) -> Iterator[str]:
    for name, row in (result["boxes"] or {}).items():
        if isinstance(row, Mapping) and "constant" in row:
            yield (
                f"boxes {name}: {interval(row['model'])}, constant {interval(row['constant'])}, "
                f"difference {interval(row['difference'])}"
            )


def saliency_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Lines of :func:`ai_training.evaluation.saliency.heatmaps.saliency_figures`; none without figures."""
    for game in ("pointing", "energy") if figures else ():
        shares = ", ".join(f"{name} {interval(values, 2)}" for name, values in figures[game].items())
        yield f"heat maps on {figures['boxes']} boxes: {game}: {shares}"
    for name, stages in figures.get("randomisation", {}).items():
        if name != "images":
            shown = {"top": stages[0], "upper half": stages[len(stages) // 2], "all": stages[-1]}
            likeness = (
                f"{upto} {interval(stage['spearman'], 2)}, {interval(stage['ssim'], 2)}"
                for upto, stage in shown.items()
            )
            yield f"layers randomised, {name}: Spearman, SSIM {'; '.join(likeness)}"


def _gate(result: Mapping[str, Any]) -> Iterator[str]:
    gate = result["gate"]
    if not gate:
        return
    yield f"gate, {gate['adults']['images']} adults: {_outcome(gate['adults'])}"
    yield "  of other pictures, first the share that passes where 95 % of the adults do:"
    for name, row in gate["kinds"].items():
        passes = interval(row["false_positives_at_95"])
        yield f"    {name:36}{row['images']:4}  {passes:22}  as it runs: {_outcome(row)}"


def _outcome(row: Mapping[str, Any]) -> str:
    return f"accepted {row['accepted']:.3f}, reoriented {row['mended']:.3f}, refused {row['refused']:.3f}"


def _short(values: Sequence[float | None]) -> str:
    return "–" if values[0] is None else f"{values[0]:.2f}"
