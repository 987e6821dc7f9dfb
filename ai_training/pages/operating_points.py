"""Operating points for docs/models/chest-calls.md: thresholds, and the reliability of calls at them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ai_pipeline.chest.calls import prevalence
from ai_pipeline.chest.calls.operating_points import UNSURE, labels_at, points_of, reliability
from ai_pipeline.chest.calls.words import words_of
from ai_pipeline.contract import Decision
from ai_pipeline.models.card import Card
from ai_training.text import interval, markdown_table


def operating_point_lines(card: Card) -> list[str]:
    """One table for each operating point that was measured; no lines without figures."""
    tested = card.details.get("metrics", {}).get("operating_points")
    if not tested:
        return []
    chosen = card.details.get("operating_points", {})
    lines = [
        "### Operating points",
        "",
        "A rule chooses one (`operating_point`); the first here is the default. Thresholds come from",
        f"validation images{_size(chosen)}, everything else from test images of all sources{_size(tested)}.",
        "How many calls are right follows by Bayes' rule from the likelihood ratios and the prevalence that",
        "the model was calibrated at ([calibration](chest.md#calibration)); in a report from the site's own,",
        "where it sets one.",
        "",
    ]
    for point in points_of(card):
        lines += _point(card, point, chosen.get(point, {}), tested[point])
    return [*lines, *(_unsure(chosen[UNSURE], tested[UNSURE]) if UNSURE in tested else [])]


def _unsure(chosen: Mapping[str, Any], tested: Mapping[str, Any]) -> list[str]:
    return [
        f"**Unsure as a whole** it is where at least {chosen['least_between']} of the reported labels are "
        f"called at `sensitive` and not at `specific`: {interval(tested['share'], 2)} of the test images "
        f"({interval(chosen['share'], 2)} of those of validation). Mean AUC there "
        f"{interval(tested.get('mean_auc'))}, on the others {interval(tested.get('mean_auc_others'))} "
        f"(validation: {interval(chosen.get('mean_auc'))} and {interval(chosen.get('mean_auc_others'))}).",
        "",
    ]


def _point(card: Card, point: Any, chosen: Mapping[str, Any], tested: Mapping[str, Any]) -> list[str]:
    labels = {label.name: label for label in labels_at(card, point)}
    known, rates = chosen.get("labels", {}), prevalence.calibrated_at(card)

    def cells(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
        label = labels[name]
        cut = interval(known[name]["threshold"]) if name in known else f"{label.threshold:.3f}"
        calls = [
            reliability(card, point, name, decision, rates[name]) if name in rates else ""
            for decision in (Decision.PRESENT, Decision.ABSENT)
        ]
        figures = (interval(row.get(key), 2) for key in ("sensitivity", "specificity"))
        words = words_of(card, point, name, rates.get(name))
        may = [
            word
            for word, allowed in (("suspected", words.suspected), ("not found", words.not_found))
            if allowed
        ]
        return (name, cut, f"{label.absent_below:.3f}", *figures, *calls, ", ".join(may) or "not assessed")

    here = f"{interval(tested.get('without_finding_called'), 2)} get a finding"
    validated = chosen.get("without_finding_called")
    there = f" ({interval(validated, 2)} of those of validation)" if validated else ""
    apart = "; ".join(
        f"{source} {interval(alarms, 2)}" for source, alarms in tested.get("sources", {}).items()
    )
    return [
        f"**`{point}`**: of test images without any finding {here}{there}; {apart}.",
        "",
        *markdown_table(
            (
                "label",
                "called from",
                "absent below",
                "sensitivity",
                "specificity",
                "called",
                "absent",
                "words",
            ),
            (cells(name, row) for name, row in tested["labels"].items()),
        ),
    ]


def _size(table: Mapping[str, Any]) -> str:
    if "images" not in table:
        return ""
    return (
        f" ({table['images']} of {table['patients']} adults, {table['without_finding']} of them without any "
        "finding)"
    )
