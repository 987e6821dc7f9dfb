"""One run of another maker's program on a folder of DICOM files, without node, database and PACS.

The program runs in its confinement and its answer goes through the gate, as in a job: a person sees in a
minute what the node would send of it, repair, hold for a person and refuse, and why.
"""

import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydicom.errors import InvalidDicomError

from ai_pipeline.contract import PipelineResult, Progress
from ai_pipeline.errors import PipelineError, ProgramFailed
from ai_pipeline.images.decode import is_dicom, read_object
from ai_pipeline.pipelines import create, option_faults
from ai_pipeline.programs.package import MANIFESTS
from dicom_node.base.actions.columns import Column, fields
from dicom_node.base.dicom.uids import Installation
from dicom_node.base.errors import ExitCode, FaultyInput, NodeError, ResultRefused
from dicom_node.base.lifecycle import ResultKind
from dicom_node.base.store.views import View
from dicom_node.jobs.worker.answer_judge import AnswerCall, AnswerVerdict
from dicom_node.receive.inspection import Inspected, inspect
from dicom_node.results.build import build
from dicom_node.results.context import ResultContext
from dicom_node.results.foreign.verdict import JudgedObject, Verdict
from dicom_node.results.source import SourceObject

COLUMNS: Final = (
    Column("object", lambda row: row["object"]),
    *fields("kind", "verdict"),
    Column("repaired", lambda row: len(row["repaired"]) or "–"),
    Column("why", lambda row: "; ".join(row["reason"]) or "–"),
)
SHOWN_LINES: Final = 20
"""Last lines of a failed program that are shown."""
_STATUS: Final = {Verdict.GOES: ExitCode.OK, Verdict.HELD: ExitCode.FAILED, Verdict.REFUSED: ExitCode.DATA}
_OF_FINDINGS: Final = frozenset({ResultKind.SR, ResultKind.GSPS, ResultKind.SC})
"""What a peer takes that does not say otherwise."""
_DRAWN: Final = "programs try"  # in place of a site's own secret


@dataclass(frozen=True, slots=True)
class TrialOptions:
    """How a program is run. ``layout``: as the option of a rule, "" for that of the program; ``further``:
    more options of a rule, by name.
    """

    layout: str = ""
    further: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TriedProgram:
    """What came of the run. ``rows``: one for each object; ``notices``: what the program says to persons;
    ``reasons``: why the answer as a whole is refused; ``files``: bytes by name of what would be sent, and
    below ``held/`` of what would wait for a person.
    """

    rows: Sequence[View]
    notices: Sequence[str]
    reasons: Sequence[str]
    files: Mapping[str, bytes] = field(repr=False)

    @property
    def status(self) -> ExitCode:
        """0 if everything would be sent, 1 if something would be held, 65 if something is refused."""
        verdicts = {Verdict(row["verdict"]) for row in self.rows}
        worst = next((one for one in (Verdict.REFUSED, Verdict.HELD) if one in verdicts), Verdict.GOES)
        return ExitCode.DATA if self.reasons else _STATUS[worst]

    def remarks(self) -> list[str]:
        """What is to be said below the table: each repair once, the program's notices, and why the answer as
        a whole is refused.
        """
        repairs = Counter(repair for row in self.rows for repair in row["repaired"])
        objects = {1: "1 object"}
        counted = [f"repaired in {objects.get(n, f'{n} objects')}: {text}" for text, n in repairs.items()]
        return [*counted, *self.notices, *(f"all refused: {reason}" for reason in self.reasons)]

    def write(self, folder: Path) -> None:
        """Write the objects into ``folder``, which must be new or empty. Raises FaultyInput, OSError."""
        _free(folder)
        for name, data in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


class TrialFailed(NodeError, exit_code=ExitCode.DATA):
    """The program failed, or its answer cannot be read. ``printed``: the last that it printed, which may name
    the patient of the study.
    """

    def __init__(self, text: str, printed: str = "") -> None:
        """``text``: the message; ``printed``: the program's."""
        super().__init__(text)
        self.printed = printed


def try_program(
    program: str, study: Path, options: TrialOptions, report: Progress, out: Path | None = None
) -> TriedProgram:
    """Run ``program`` (a command, the name of an image or the folder of a MONAI package) once on the DICOM
    files below ``study``, and judge its answer; ``out``: where the objects are written, None for nowhere.

    Raises FaultyInput (no study, or more than one; an option that is wrong), TrialFailed, OSError, and what
    ``report`` raises.
    """
    from dicom_node.deliver.scu.storage import dicom_files

    pipeline_name, chosen = program_of(program, options)
    return try_pipeline(pipeline_name, chosen, dicom_files([study]), report, out)


def try_pipeline(
    pipeline_name: str,
    chosen: Mapping[str, object],
    files: Iterable[Path],
    report: Progress,
    out: Path | None,
) -> TriedProgram:
    """Run the pipeline ``command`` or ``container`` once, with these options of a rule, on the DICOM files
    among ``files``, and judge the answer. The rest as :func:`try_program`.
    """
    if out:
        _free(out)
    pipeline = create(pipeline_name)
    if faults := option_faults(pipeline, chosen):
        raise FaultyInput("; ".join(f"{option} {remedy}" for option, remedy in faults.items()))
    sources = _read_study(files, report)
    pipeline.warm_up()
    try:
        result = pipeline.run([source.image for source in sources], report, chosen)
    except ProgramFailed as error:
        raise TrialFailed(str(error), error.printed) from error
    except PipelineError as error:
        raise TrialFailed(str(error)) from error
    report(1.0, "its answer is judged")
    context = ResultContext(
        pipeline=pipeline_name,
        pipeline_version=pipeline.card.version,
        models=result.models,
        analysed_at=datetime.now(UTC),
        kinds=_OF_FINDINGS,
        installation=Installation.from_drawn(_DRAWN),
        options=chosen,
    )
    tried = _judged(context, sources, result)
    if out:
        tried.write(out)
    return tried


def program_of(program: str, options: TrialOptions) -> tuple[str, dict[str, object]]:
    """The pipeline and its options for ``program``, as in :func:`try_program`. Raises FaultyInput."""
    try:
        words = shlex.split(program)
    except ValueError as error:
        raise FaultyInput(f"{program}: {error}") from None
    if not words:
        raise FaultyInput("name a command, an image or the folder of a package")
    stated = ({"layout": options.layout} if options.layout else {}) | dict(options.further)
    name = Path(words[0]).name
    usual: dict[str, object] = {"model": "".join(_word(letter) for letter in name)[:64], "version": "trial"}
    folder = Path(program)
    if any((folder / place / "app.json").is_file() for place in MANIFESTS):
        found: dict[str, object] = {"package": str(folder.absolute()), "layout": "map"}
        return "command", usual | found | stated
    if Path(words[0]).is_file() or shutil.which(words[0]):
        # The program works in a folder of its own: a file that stands beside the person is meant by its path.
        whole = [str(Path(word).absolute()) if Path(word).exists() else word for word in words]
        return "command", usual | {"command": whole} | stated
    if "/" in words[0] and words[0].startswith(("/", ".")):
        raise FaultyInput(f"{words[0]} is no program on this machine")
    usual |= {"image": words[0]} | ({"command": words[1:]} if words[1:] else {})
    return "container", usual | stated


def _word(letter: str) -> str:
    """A character of the name of a model."""
    return letter if letter.isascii() and (letter.isalnum() or letter in "._+-") else "-"


def _free(folder: Path) -> None:
    """Raise FaultyInput unless the folder is new or empty."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FaultyInput(f"{folder} is there already: name a new or an empty folder")


def _read_study(files: Iterable[Path], report: Progress) -> list[SourceObject]:
    """Read DICOM files, which must be of one study. Raises FaultyInput."""
    found: dict[str, tuple[Path, Inspected]] = {}
    for path in files:
        if not is_dicom(path):
            continue
        report(0.0, f"file {len(found) + 1} is read")
        inspected = inspect(path)
        if inspected.fault:
            raise FaultyInput(f"{path.name} would be quarantined: {inspected.fault}")
        found.setdefault(inspected.sop_instance_uid, (path, inspected))
    studies = {inspected.study_instance_uid for _, inspected in found.values()}
    if len(studies) != 1:
        raise FaultyInput(f"the files are of {len(studies)} studies: name a folder with the files of one")
    patients = {inspected.patient for _, inspected in found.values()}
    if len(patients) != 1:
        raise FaultyInput(f"the files are of one study of {len(patients)} patients, which is quarantined")
    return [_source(path, inspected) for path, inspected in found.values()]


def _source(path: Path, inspected: Inspected) -> SourceObject:
    """A file as results are built of it. Raises FaultyInput."""
    try:
        image = read_object(path)
    except (PipelineError, InvalidDicomError) as error:
        raise FaultyInput(f"{path.name}: {error}") from error
    hashes = inspected.pixels_sha256, inspected.header_sha256
    return SourceObject(image, path, *hashes, assume_charset=inspected.assumed_charset)


def _judged(context: ResultContext, sources: Sequence[SourceObject], result: PipelineResult) -> TriedProgram:
    """The rows and files of an answer."""
    rows: list[View] = []
    files: dict[str, bytes] = {}
    reasons: tuple[str, ...] = ()
    if result.findings:
        _add_built(context, sources, replace(result, objects=()), rows, files)
    if result.objects:
        from dicom_node.jobs.worker.program_answer import LIMITS, judge_apart  # loads the reader of text

        # No names of other patients are known here.
        verdict = judge_apart(AnswerCall(result.objects, context, sources, _DRAWN, LIMITS))
        reasons = verdict.judged.reasons
        for place, judged in enumerate(verdict.judged.objects):
            _add_judged(verdict, place, judged, rows, files)
    return TriedProgram(rows, [note.text for note in result.quality], reasons, files)


def _add_built(
    context: ResultContext,
    sources: Sequence[SourceObject],
    result: PipelineResult,
    rows: list[View],
    files: dict[str, bytes],
) -> None:
    """Add the objects that the node builds of findings."""
    try:
        built = build(context, sources, result)
    except (ResultRefused, PipelineError) as error:
        rows.append(_row("findings.json", "findings", Verdict.REFUSED, reason=[str(error)]))
        return
    for number, one in enumerate(built, start=1):
        name = f"{one.kind}-of-findings-{number}.dcm"
        rows.append(_row("findings.json", str(one.kind), Verdict.GOES, name))
        files[name] = one.data or b""


def _add_judged(
    answer: AnswerVerdict, place: int, judged: JudgedObject, rows: list[View], files: dict[str, bytes]
) -> None:
    """Add an object of the program's own, the one at ``place`` of its answer."""
    name, verdict, reasons = "", judged.verdict, judged.reasons
    if built := answer.built.get(place):
        name = f"{'held/' if built.held else ''}{judged.kind}-{place + 1}.dcm"
        files[name] = built.data or b""
    elif fault := answer.faults.get(place):
        verdict, reasons = Verdict.REFUSED, (*reasons, fault)
    rows.append(_row(judged.name, str(judged.kind), verdict, name, judged.repairs, reasons))


def _row(
    what: str,
    kind: str,
    verdict: Verdict,
    file: str = "",
    repaired: Sequence[str] = (),
    reason: Sequence[str] = (),
) -> View:
    """The row of an object; ``file``: its name below the folder of ``--out``, "" for none."""
    return {
        "object": what,
        "kind": kind,
        "verdict": str(verdict),
        "repaired": list(repaired),
        "reason": list(reason),
        "file": file,
    }


def progress(say: Callable[[str], None]) -> Progress:
    """Make a function that says what a program does when that changes, at most once a second."""
    last = ("", datetime.min.replace(tzinfo=UTC))

    def report(share: float, what: str) -> None:  # noqa: ARG001  (nobody knows how long a program takes)
        """Say ``what`` if there is news."""
        nonlocal last
        now = datetime.now(UTC)
        if what != last[0] and (now - last[1]).total_seconds() >= 1:
            say(what)
            last = (what, now)

    return report
