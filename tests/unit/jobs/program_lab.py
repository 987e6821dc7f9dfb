"""Answers of programs as a node has them: an object that waits for a person, beside those that go."""

from dataclasses import replace

import pytest

from dicom_node.jobs.worker.answer_judge import AnswerCall, AnswerVerdict
from dicom_node.jobs.worker.program_answer import judge_apart
from dicom_node.results.foreign.verdict import JudgedObject, Verdict


def hold_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if something in each report of a program needed a person's look."""

    def judged(call: AnswerCall) -> AnswerVerdict:
        verdict = judge_apart(call)
        objects = tuple(map(held, verdict.judged.objects))
        built = {
            place: replace(one, held=objects[place].verdict is Verdict.HELD)
            for place, one in verdict.built.items()
        }
        return replace(verdict, judged=replace(verdict.judged, objects=objects), built=built)

    def held(one: JudgedObject) -> JudgedObject:
        is_report = one.kind.value == "sr" and one.verdict is not Verdict.REFUSED
        return replace(one, verdict=Verdict.HELD, reasons=("text and code differ",)) if is_report else one

    monkeypatch.setattr("dicom_node.jobs.worker.program_answer.judge_apart", judged)
