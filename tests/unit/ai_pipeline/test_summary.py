"""The short result: what it says, and what it may not."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_pipeline.contract import BURNED_IN, Code, Decision, Finding, Measurement, PipelineResult, QualityNote
from ai_pipeline.summary import MOST, certainty, short_result, without_research
from tests.unit.ai_pipeline.phantoms import MODEL

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


def finding(name: str, decision: Decision = Decision.PRESENT, **changed: Any) -> Finding:
    return replace(Finding(name, Code("1", "99TEST", name), 0.5, 0.4, decision, "1.2", MODEL), **changed)


def ratio(statement: str = "") -> Measurement:
    code, unit = Code("2", "99TEST", "Ratio"), Code("{ratio}", "UCUM", "ratio")
    line = ((0.0, 0.0), (1.0, 1.0))
    return Measurement("1.2", "Ratio", code, 0.561, unit, (line,), MODEL, statement=statement)


def test_a_radiologist_reads_size_suspicion_and_what_was_not_assessed() -> None:
    lines = short_result(
        [
            finding("Pleural effusion", side="L", certainty="low certainty"),
            finding("Atelectasis", certainty="low certainty"),
            finding("Cardiomegaly", Decision.INDETERMINATE),
            finding("Hernia", Decision.ABSENT),
        ],
        [ratio("Heart enlarged, cardiothoracic ratio 0.56")],
        [QualityNote("not assessed", "…", names=("pneumothorax", "lung nodule"))],
    )
    assert lines == (
        "AI: Heart enlarged, cardiothoracic ratio 0.56.",
        "Suspected, low certainty: left pleural effusion, atelectasis. No call on cardiomegaly. "
        "Not found: hernia.",
        "Not assessed: all else.",
    )


def test_without_a_statement_the_first_two_values_that_a_model_has_measured_are_said() -> None:
    values = [replace(ratio(), model=None), *(replace(ratio(), value=value) for value in (0.1, 0.2, 0.3))]
    assert short_result([], values, []) == ("AI: Ratio 0.10. Ratio 0.20.",)


def test_without_a_call_it_says_what_was_looked_for_and_where_the_model_is_unsure_only_why() -> None:
    open_ = [finding(name, Decision.INDETERMINATE) for name in ("Pleural effusion", "Atelectasis")]
    white = QualityNote("unsure", "The lung is white.", "1.2", on_faces=True)
    absent = [finding("Atelectasis", Decision.ABSENT)]
    assert short_result(open_, [], []) == ("AI: No call on pleural effusion or atelectasis.",)
    assert short_result(absent, [], []) == ("AI: Not found: atelectasis.",)
    assert short_result([*open_, finding("Effusion"), *absent], [], [white]) == (
        "AI: The lung is white.",
        "Suspected: effusion.",
    )


def test_of_classes_that_exclude_each_other_one_is_suggested_or_none() -> None:
    likely = finding("Teratoma", exclusive=True)
    other = finding("Normal ovary", Decision.INDETERMINATE, exclusive=True)
    assert short_result([likely, other], [], []) == ("AI: Suggested class: teratoma.",)
    assert short_result([other], [], []) == ("AI: No class suggested.",)


def test_burned_in_annotation_and_research_say_nothing_of_the_patient() -> None:
    burned, hidden = finding("Burned-in text", code=BURNED_IN), finding("Cancer", research_only=True)
    assert short_result([burned], [], []) == (
        "AI: burned-in annotation found; nothing else was looked for here.",
    )
    assert "ancer" not in str(short_result([burned, hidden], [], []))


@pytest.mark.parametrize(
    ("right", "words"), [(0.2, "low"), (0.49, "low"), (0.5, "moderate"), (0.89, "moderate"), (0.9, "high")]
)
def test_certainty_is_defined_by_the_share_of_calls_that_are_right(right: float, words: str) -> None:
    assert certainty(right) == f"{words} certainty"


@given(
    st.lists(
        st.tuples(
            st.text("abcdef ", min_size=1, max_size=60), st.sampled_from(Decision), st.sampled_from("LR")
        ),
        max_size=14,
    ),
    st.lists(st.text("abc", min_size=1, max_size=40), max_size=14),
)
def test_lines_are_few_and_short_and_every_name_is_there_or_counted(
    given_: list[tuple[str, Decision, str]], skipped: list[str]
) -> None:
    findings = [finding(name, decision, side=side) for name, decision, side in given_]
    notes = [QualityNote("not assessed", "…", "1.2", names=tuple(skipped))]
    lines = short_result(findings, [ratio("Heart enlarged, cardiothoracic ratio 0.56")], notes)
    assert len(lines) <= 3
    assert all(len(line) <= MOST for line in lines)
    assert ("Suspected: " in "".join(lines)) is any(decision is Decision.PRESENT for _, decision, _ in given_)
    assert ("Not assessed: " in "".join(lines)) is bool(skipped)
