"""What is for research only is neither shown nor told by what stands beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ai_pipeline.contract import Code, Decision, Finding, ModelRef, PipelineResult
from ai_pipeline.shown import without_research

MODEL = ModelRef("classes", "1", "a" * 64, "b" * 64, calibrated=True)
CLASS = Finding(
    "Cyst", Code("CYST", "99TEST", "Cyst"), 0.7, 0.6, Decision.PRESENT, "1.2.3", MODEL, exclusive=True
)
UNLIKELY = replace(CLASS, label="Teratoma", probability=0.1, decision=Decision.ABSENT)
HIDDEN = replace(CLASS, label="Hidden", probability=0.2, decision=Decision.INDETERMINATE, research_only=True)


def test_the_others_do_not_add_up_to_what_is_hidden() -> None:
    shown = without_research(PipelineResult((CLASS, UNLIKELY, HIDDEN))).findings
    assert [(one.label, one.probability, one.threshold) for one in shown] == [
        ("Cyst", 0.7, 0.6),
        ("Teratoma", None, None),
    ]


@pytest.mark.parametrize(
    "beside",
    [
        replace(UNLIKELY, exclusive=False),  # its number says nothing of the others
        replace(UNLIKELY, source_uid="1.2.4"),
        replace(UNLIKELY, model=replace(MODEL, id="another")),
    ],
)
def test_numbers_that_tell_nothing_stay(beside: Finding) -> None:
    assert without_research(PipelineResult((beside, HIDDEN))).findings == (beside,)


def test_where_nothing_is_hidden_all_numbers_stay() -> None:
    result = PipelineResult((CLASS, UNLIKELY))
    assert without_research(result).findings == result.findings
