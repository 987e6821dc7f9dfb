"""The most probable findings of a study with their scores, from the study's newest reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ai_pipeline.contract import BURNED_IN
from dicom_node.results.common.concepts import CUT_OFF
from dicom_node.store.views import View

_SHOWN = 3
_CUT_OFF = CUT_OFF.meaning


def likeliest(findings: Sequence[Mapping[str, Any]]) -> list[View]:
    """For each model that scored more findings than the page shows, the three findings with the highest
    scores.

    Each row has the ``model`` and its ``findings``: ``finding``, ``decision``, ``score`` and ``cut_off`` with
    their units. The cut-off is ``""`` if the report does not state it, as for an absent finding. If several
    images have a score for a finding, the highest counts. Scores of different models are not compared: only
    scores of a calibrated model are probabilities.
    """
    scored: dict[str, dict[str, View]] = {}
    for row in findings:
        numbers = row["numbers"]
        scores = [text for name, text in numbers.items() if name != _CUT_OFF]
        if len(scores) != 1 or tuple(row["code"]) == (BURNED_IN.value, BURNED_IN.scheme):
            continue
        found = {
            "finding": row["finding"],
            "decision": row["decision"],
            "score": scores[0],
            "cut_off": numbers.get(_CUT_OFF, ""),
        }
        best = scored.setdefault(row["model"], {})
        if row["finding"] not in best or _value(found) > _value(best[row["finding"]]):
            best[row["finding"]] = found
    return [
        {"model": model, "findings": sorted(best.values(), key=_value, reverse=True)[:_SHOWN]}
        for model, best in scored.items()
        if len(best) > _SHOWN
    ]


def _value(row: View) -> float:
    """The number of "83.1 %"."""
    return float(row["score"].split()[0])
