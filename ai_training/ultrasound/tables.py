"""Results of the ultrasound evaluations as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ai_training.text import NOT_DIAGNOSTIC, interval


def marks_text(result: Mapping[str, Any]) -> str:
    """The figures of ``evaluate marks``."""
    model = result["model"]
    lines = [f"{model['id']} {model['version']}, threshold {result['threshold']}, policy {result['policy']}"]
    if "synthetic" in result:
        lines += _synthetic(result["synthetic"])
    for key, title in (
        ("drawn", "hand-drawn test frames"),
        ("coloured", "coloured marks, validation frames"),
    ):
        if key in result:
            lines += _real(result[key], title)
    if "clean" in result:
        lines += _clean(result["clean"])
    return "\n".join([*lines, NOT_DIAGNOSTIC])


def legible_text(result: Mapping[str, Any], missed: Sequence[str]) -> str:
    """The figures of ``evaluate legible``, and the targets that are not reached."""
    lines = [result["set"], f"tesseract: {result['tesseract']}"]
    for name, row in result["engines"].items():
        lines += [
            f"{name}: {row['legible_before']} of {row['tokens']} tokens legible before, {row['left']} after "
            f"(at most {row['at_most']:.2%} by Clopper and Pearson)",
            f"  pictures with any: {_rate(row['pictures_with_any'])}; words of the overlay elsewhere: "
            f"{row['elsewhere']}; strings not of the overlay: {row['invented']}",
        ]
        lines += [
            f"  picture {leak['picture']}, {leak['where']}: {leak['text']} at {leak['box']}"
            for leak in row["what"]
        ]
    lines += [
        f"pictures in which any engine reads anything of the overlay: {_rate(result['any_engine'])}",
        f"identity lines not covered by the mask: {result['uncovered_lines']} of {result['identity_lines']}",
    ]
    lines += [
        f"{key.replace('_', ' ')}: {_rate(result[key])}" for key in ("quarantined", "blacked_out", "widened")
    ]
    lines += [f"  {count} × {reason}" for reason, count in result["quarantined"]["reasons"].items()]
    seconds = ", ".join(f"{name} {value} s" for name, value in result["seconds"].items())
    lines += [
        f"pixels changed outside the mask: {result['pixels_changed_outside']}",
        f"filled share of a picture: {result['filled_share']:.2%}",
        f"cleaning one picture: {seconds}",
        *(f"NOT MET: {fault}" for fault in missed),
    ]
    return "\n".join([*lines, NOT_DIAGNOSTIC])


def inpaint_text(result: Mapping[str, Any]) -> str:
    """One table per kind of mask and place; under each the differences to the reference."""
    lines = [result["set"]]
    for mask in ("given", "detected"):
        rows = [row for row in result["rows"] if row["mask"] == mask]
        for where, title in (("inside", "in the mask"), ("whole", "whole picture")):
            if not rows:
                continue
            lines.append(f"\n{mask} mask, {title}")
            lines.append(f"{'':16}{'MAE 0–255':26}{'MSE 0–1':28}{'PSNR dB':26}{'SSIM':26}KID")
            lines += [_inpaint_row(row, where) for row in rows]
            lines += [
                f"  {row['name']} − {result['reference']}: "
                f"PSNR {interval(row[where]['difference']['psnr'])}, "
                f"SSIM {interval(row[where]['difference']['ssim'])}"
                for row in rows
                if "difference" in row[where]
            ]
    return "\n".join([*lines, NOT_DIAGNOSTIC])


def cleaning_text(result: Mapping[str, Any]) -> str:
    """The figures of ``evaluate cleaning``."""
    identity, cut, background = result["identity"], result["cut"], result["background"]
    lines = [
        f"{result['frames']} frames of {result['patients']} patients or files, policy {result['policy']}; "
        + ", ".join(result["models"]),
        f"withheld: {result['withheld']['frames']}",
        *(f"  {reason}" for reason in result["withheld"]["reasons"]),
        f"identity: {identity['left']} of {identity['objects']} lines not covered",
        f"lines cut: {cut['cut']} of {cut['lines']}",
        f"made up on plain background: {background['made_up']} of {background['filled']} filled pixels, in "
        f"{background['frames_with_any']} frames",
        f"\n{'content':14}{'objects':9}{'share of its pixels removed':30}{'gone':6}in part",
    ]
    lines += [
        f"{name:14}{row['objects']:<9}{interval(row['share'], 4):30}{row['gone']:<6}{row['in_part']}"
        for name, row in result["content"].items()
    ]
    if result["most_lost"]:
        lines.append("\nmost removed of what is needed")
        lines += [f"  {row['frame']}: {row['pixels']} pixels" for row in result["most_lost"]]
    lines.append(
        f"\nfilled share of a frame {result['filled_share']:.2%}; median {result['seconds']:.1f} s an image"
    )
    if "filling" in result:
        lines += _filling_lines(result["filling"])
    if "agreement" in result:
        lines += agreement_lines(result["agreement"])
    return "\n".join([*lines, NOT_DIAGNOSTIC])


def _filling_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """PSNR where marks were drawn on clean frames."""
    yield f"\nPSNR where marks were drawn (dB): {result['set']}, {result['refused']} withheld"
    for row in result["rows"]:
        more = row["inside"].get("difference", {}).get("psnr")
        against = f"; {interval(more)} more than {result['reference']}" if more else ""
        yield f"  {row['mask']} mask, {row['name']}: {interval(row['inside']['psnr'])}{against}"


def agreement_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """How far two annotators agree."""
    yield f"\n{result['frames']} frames drawn twice: objects matched by their boxes, Dice of pixels"
    yield f"{'content':14}{'both':6}{'only first':12}{'only second':13}{'overlap':9}Dice"
    for name, row in {**result["content"], "all": result["all"]}.items():
        overlap = "–" if row["overlap"] is None else f"{row['overlap']:.2f}"
        yield (
            f"{name:14}{row['both']:<6}{row['only_first']:<12}{row['only_second']:<13}{overlap:9}"
            f"{interval(row['dice'], 2)}"
        )
    kappa = "–" if result["kappa"] is None else f"{result['kappa']:.2f}"
    yield f"class of matched objects: Cohen's kappa {kappa}"
    for row in result["other_class"]:
        yield f"  {row['objects']} × {row['first']} of the first is {row['second']} of the second"


def _synthetic(row: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n{row['set']}"
    titles = {
        "object_recall": "object recall",
        "pixel_recall": "pixel recall",
        "precision": "precision",
        "dice": "Dice",
        "clean_area": "area marked on clean",
    }
    for key, title in titles.items():
        yield f"{title:22}{interval(row[key], 5 if key == 'clean_area' else 3)}"
    yield from (
        f"  {kind:20}{interval(found['recall'])}  of {found['objects']}"
        for kind, found in row["by_kind"].items()
    )


def _real(result: Mapping[str, Any], title: str) -> Iterator[str]:
    yield (
        f"\n{title}: {result['frames']} frames, {result['objects']} marks; found from "
        f"{result['found_from']:.0%} of a mark's pixels"
    )
    for name, row in result["rows"].items():
        verdict = "" if "met" not in row else "  target met" if row["met"] else "  TARGET NOT MET"
        yield f"{name:12} object recall {interval(row['recall'])}{verdict}"
        yield from (
            f"  {kind:22}{interval(part['recall'])}  of {part['objects']}"
            for kind, part in row["by_class"].items()
            if len(row["by_class"]) > 1
        )
        yield from (
            f"  {stratum:22}{interval(part['recall'])}  of {part['objects']} in {part['frames']} frames"
            for stratum, part in row["by_stratum"].items()
            if len(row["by_stratum"]) > 1
        )
        yield f"  {'pixel precision':22}{interval(row['precision'])}  within {result['tolerance']} pixels"
        yield f"  {'area marked wrongly':22}{interval(row['false_area'], 5)}"
        if row["refused"]:
            yield f"  refused, counted as nothing found: {', '.join(row['refused'])}"


def _clean(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n{result['frames']} clean {result['split']} frames, share of the picture that is marked"
    for name, row in result["rows"].items():
        sources = ", ".join(f"{source} {area:.5f}" for source, area in sorted(row["by_source"].items()))
        verdict = "target met" if row["met"] else "TARGET NOT MET"
        yield f"{name:12} {interval(row['area'], 5)}  {verdict}; {row['frames_touched']} frames touched"
        yield f"  {sources}; largest {row['largest']:.5f}; refused {row['refused']}"


def _rate(row: Mapping[str, Any]) -> str:
    return f"{row['pictures']} of {row['of']} (at most {row['at_most']:.2%})"


def _inpaint_row(row: Mapping[str, Any], where: str) -> str:
    cells = row[where]
    return (
        f"{row['name']:16}{interval(cells['mae'], 2):26}{interval(cells['mse'], 5):28}"
        f"{interval(cells['psnr'], 2):26}{interval(cells['ssim']):26}{interval(row['kid'], 4)}"
    )
