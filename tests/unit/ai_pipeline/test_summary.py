"""The short result: three lines at most, of 120 characters at most, with nothing in them that misleads."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_pipeline.contract import BURNED_IN, Code, Decision, Finding, Measurement, ModelRef, QualityNote
from ai_pipeline.summary import MOST, certainty, short_result

MODEL = ModelRef("model", "1", "0" * 64, "1" * 64, calibrated=True)


def finding(name: str, decision: Decision = Decision.PRESENT, **changed: object) -> Finding:
    code = Code("1", "99TEST", name)
    made = Finding(name, code, 0.5, 0.4, decision, "1.2", MODEL)
    return replace(made, **changed)  # type: ignore[arg-type]


def ratio(statement: str = "") -> Measurement:
    unit = Code("{ratio}", "UCUM", "ratio")
    line = ((0.0, 0.0), (1.0, 1.0))
    code = Code("2", "99TEST", "Ratio")
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
        "Suspected, low certainty: left pleural effusion, atelectasis. Cannot exclude: cardiomegaly. "
        "Not found: hernia.",
        "Not assessed: pneumothorax, lung nodule.",
    )


def test_without_a_suspicion_it_says_so() -> None:
    lines = short_result([finding("Atelectasis", Decision.INDETERMINATE)], [], [])
    assert lines == ("AI: Nothing suspected. Cannot exclude: atelectasis.",)


def test_of_an_image_that_the_model_is_unsure_of_nothing_is_excluded() -> None:
    absent = [finding("Atelectasis", Decision.ABSENT)]
    assert short_result(absent, [], []) == ("AI: Not found: atelectasis.",)
    unsure = short_result(absent, [], [QualityNote("unsure", "The lung is white.")])
    assert unsure == ("AI: Nothing suspected. Cannot exclude: atelectasis.",)


def test_of_classes_that_exclude_each_other_one_is_suggested_or_none() -> None:
    classes = [
        finding("Teratoma", exclusive=True),
        finding("Normal ovary", Decision.INDETERMINATE, exclusive=True),
    ]
    assert short_result(classes, [], []) == ("AI: Suggested class: teratoma.",)
    assert short_result(classes[1:], [], []) == ("AI: No class suggested.",)


def test_numbers_without_a_statement_are_given_as_they_are() -> None:
    assert short_result([], [ratio()], []) == ("AI: Ratio 0.56.",)
    assert short_result([], [], []) == ("AI: nothing stated about this image.",)


def test_burned_in_annotation_and_research_say_nothing_of_the_patient() -> None:
    burned = finding("Burned-in text", code=BURNED_IN)
    hidden = finding("Cancer", research_only=True)
    assert short_result([burned], [], []) == (
        "AI: burned-in annotation found; this AI does not assess the image.",
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
    notes = [QualityNote("not assessed", "…", names=tuple(skipped))]
    lines = short_result(findings, [ratio("Heart enlarged, cardiothoracic ratio 0.56")], notes)
    assert len(lines) <= 3
    assert all(len(line) <= MOST for line in lines)
    suspected = {(name, side) for name, decision, side in given_ if decision is Decision.PRESENT}
    assert ("Suspected: " in "".join(lines)) is bool(suspected)
    assert ("Not assessed: " in "".join(lines)) is bool(skipped)
