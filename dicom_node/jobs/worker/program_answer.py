"""A program's answer in a job: judged, compared with the first one to the same input, and recorded.

A program may answer differently when it is asked again (a network on another processor, a random seed). The
PACS has its first answer then, and a person may have read it: the first one stays.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from ai_pipeline.burnin.find.text import shared_reader, working_scale
from ai_pipeline.contract import Picture, PipelineResult, ProgramFile
from ai_pipeline.programs.output import MOST_OBJECT_BYTES, MOST_OBJECTS
from ai_pipeline.summary import without_research
from dicom_node.base.connectors import installed
from dicom_node.base.errors import ResultRefused
from dicom_node.base.events import (
    PROGRAM_ANSWERED,
    PROGRAM_DIFFERS,
    PROGRAM_OBJECT_HELD,
    PROGRAM_OBJECT_REFUSED,
)
from dicom_node.base.lifecycle import RESULT_KINDS
from dicom_node.base.store.tables import EventRow, Job
from dicom_node.jobs.queue import record_of_job
from dicom_node.jobs.worker.answer_judge import ANSWER_JUDGE, AnswerCall, AnswerVerdict
from dicom_node.results.built_object import BuiltObject
from dicom_node.results.context import ResultContext
from dicom_node.results.foreign.parsing import AnswerLimits
from dicom_node.results.foreign.verdict import JudgedAnswer, JudgedObject, Verdict
from dicom_node.results.program_objects import KINDS
from dicom_node.results.source import SourceObject
from dicom_node.results.uids import shaping_texts

LIMITS: Final = AnswerLimits(objects=MOST_OBJECTS, mebibytes=MOST_OBJECT_BYTES >> 20)
"""Of the objects of an answer."""
_MOST_EVENTS: Final = 50
"""Objects of an answer that get an event of their own; all are counted in event 3040."""
_LONGEST_REASON: Final = 1000  # characters of a job's reason


@dataclass(frozen=True, slots=True)
class ProgramAnswer:
    """What a program returned in a job. ``built``: its objects that go or wait for a person. ``judged``: the
    verdicts on all. ``input_sha256``: of everything that the program got, and of the program; two answers
    with the same one can be compared by ``content_sha256``.
    """

    rule: str
    built: tuple[BuiltObject, ...]
    judged: tuple[JudgedObject, ...]
    input_sha256: str
    content_sha256: str

    @property
    def reason(self) -> str:
        """Why objects are refused or wait, in words; "" if all go."""
        parts = [
            f"{_noun(one)} {number} of {len(self.judged)} "
            f"{'waits for a person' if one.verdict is Verdict.HELD else 'refused'}: {'; '.join(one.reasons)}"
            for number, one in enumerate(self.judged, start=1)
            if one.verdict is not Verdict.GOES
        ]
        return ". ".join(parts)[:_LONGEST_REASON]

    def record(self, session: Session, job: Job, *, differs: bool) -> None:
        """Record the answer with its verdicts. ``differs``: it is another one than the first to this input:
        that is said once, and nothing else of it.
        """
        told = {"rule": self.rule, "input": self.input_sha256}
        if differs:
            if first_event(session, job.study_id, self.input_sha256, PROGRAM_DIFFERS.number) is None:
                record_of_job(session, job, PROGRAM_DIFFERS, **told)
            return
        counted = Counter(one.verdict for one in self.judged)
        record_of_job(
            session,
            job,
            PROGRAM_ANSWERED,
            **told,
            answer=self.content_sha256,
            sent=counted[Verdict.GOES],
            held=counted[Verdict.HELD],
            refused=counted[Verdict.REFUSED],
        )
        record_verdicts(session, job, self.judged)


def record_verdicts(session: Session, job: Job, judged: Sequence[JudgedObject]) -> None:
    """Record an event for each object that is refused or waits for a person. Its file's name may be a
    patient's: it is named by its place and kind.
    """
    events = {Verdict.HELD: PROGRAM_OBJECT_HELD, Verdict.REFUSED: PROGRAM_OBJECT_REFUSED}
    named = [(number, one) for number, one in enumerate(judged, start=1) if one.verdict in events]
    for number, one in named[:_MOST_EVENTS]:
        why = "; ".join(one.reasons)
        record_of_job(session, job, events[one.verdict], object=number, kind=one.kind.value, reason=why)


def judge(
    job: Job,
    context: ResultContext,
    images: Sequence[SourceObject],
    result: PipelineResult,
    known_names: frozenset[str],
    refuse: Callable[[Sequence[JudgedObject]], None],
) -> ProgramAnswer:
    """Judge a program's answer on ``images`` and build its objects.

    ``known_names``: names and IDs of other patients, which no text may hold. ``refuse``: called with the
    verdicts before an answer is refused. Raises ResultRefused if nothing of it may be used, and as
    ``AnswerJudge.judge``.
    """
    shaping = (*shaping_texts(context), job.rule, *_input_parts(images))
    judged = JudgedAnswer(())
    built: list[BuiltObject] = []
    if result.objects:
        call = AnswerCall(result.objects, context, images, job.rule, LIMITS, known_names)
        verdict = judge_apart(call)
        if job.pipeline in installed("answers"):  # a server may send its whole answer twice, under new UIDs
            once = _once(call, verdict.judged.objects)
            verdict = verdict if len(once) == len(call.files) else judge_apart(replace(call, files=once))
        judged = verdict.judged
        if fault := _whole_fault(judged, result):
            refuse(judged.objects)
            raise ResultRefused(fault)
        built = verdict.objects(context.exists)
    findings = [repr(one) for one in without_research(result).findings]
    content = _sha256(*findings, *judged.content_sha256)
    return ProgramAnswer(job.rule, tuple(built), judged.objects, _sha256(*shaping), content)


def _once(call: AnswerCall, judged: Sequence[JudgedObject]) -> Sequence[ProgramFile]:
    """The files of an answer, of those with the same content the first; what was not read is kept."""
    found: dict[str, ProgramFile] = {}
    for file, one in zip(sorted(call.files, key=lambda file: file.name), judged, strict=True):
        found.setdefault(one.content_sha256 or file.name, file)
    return list(found.values())


def judge_apart(call: AnswerCall) -> AnswerVerdict:
    """Judge an answer in the confined process, which has text read here. Raises as ``AnswerJudge.judge``."""
    return ANSWER_JUDGE.judge(call, read_text)


def _whole_fault(judged: JudgedAnswer, result: PipelineResult) -> str:
    """Why nothing of an answer may be used; "" if something may."""
    if judged.reasons:
        return f"the program's answer is refused as a whole: {'; '.join(judged.reasons)}"[:_LONGEST_REASON]
    if not result.findings and all(one.verdict is Verdict.REFUSED for one in judged.objects):
        reasons = dict.fromkeys(reason for one in judged.objects for reason in one.reasons)
        return f"all objects of the program's answer are refused: {'; '.join(reasons)}"[:_LONGEST_REASON]
    return ""


def first_event(
    session: Session, study_id: int, input_sha256: str, number: int
) -> Mapping[str, object] | None:
    """Return the fields of the first event with this number about an answer to this input; None if there is
    none.
    """
    chosen = (
        select(EventRow.fields)
        .where(
            EventRow.study_id == study_id,
            EventRow.number == number,
            EventRow.fields["input"].as_string() == input_sha256,
        )
        .order_by(EventRow.id)
    )
    return session.scalar(chosen.limit(1))


def read_text(picture: Picture) -> list[str]:
    """Read the text in a picture, by the reader of burned-in annotation."""
    reader = shared_reader()
    boxes = reader.find(picture, working_scale(picture))
    return [line.text for box in boxes if (line := reader.read(picture, box)).text]


def _input_parts(images: Sequence[SourceObject]) -> list[str]:
    """The texts that make two inputs equal: UID, content and identity of each object, in any order."""
    parts = sorted((one.image.uid, one.pixels_sha256, one.identity_sha256) for one in images)
    return [text for part in parts for text in part]


def _sha256(*texts: str) -> str:
    """The SHA-256 of texts, hexadecimal."""
    return hashlib.sha256("\x1f".join(f"{len(text)}:{text}" for text in texts).encode()).hexdigest()


def _noun(judged: JudgedObject) -> str:
    """What an object is, for a person."""
    return RESULT_KINDS[KINDS[judged.kind]].name if judged.kind in KINDS else "object"
