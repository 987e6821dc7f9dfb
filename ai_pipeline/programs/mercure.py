"""The contract of mercure's processing modules, as its sources have it (mercure 3b27722, 2026-07).

A module finds ``<Series Instance UID>#<SOP Instance UID>.dcm`` in its input folder, beside each a file
``.tags`` (main attributes as JSON), and ``task.json`` with its settings. It may leave ``result.json``, of
which one key is a notice to persons, and keep files in a folder from run to run.
"""

import json
import re
import uuid
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from ai_pipeline.errors import ProgramFailed
from ai_pipeline.images.numbers import value_of
from ai_pipeline.programs.card import ProgramOptions

TASK = "task.json"
PERSISTENCE = "MODULE_PERSISTENCE_DIR"
FOLDERS = {"{input}": "/tmp/data", "{output}": "/tmp/output", "{persistence}": "/tmp/persistence"}
"""Where a module finds its folders in its container."""
_MISSING = "MISSING"  # mercure's own word
_UID = re.compile(r"[0-9][0-9.]{0,63}")
_TAGS = (
    "Modality", "BodyPartExamined", "ProtocolName", "RetrieveAETitle", "StationAETitle", "Manufacturer",
    "ManufacturerModelName", "StudyDescription", "SeriesDescription", "PatientName", "PatientID",
    "PatientBirthDate", "PatientSex", "AccessionNumber", "ReferringPhysicianName", "StudyID", "SeriesNumber",
    "StudyInstanceUID", "SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime", "SequenceName",
    "ScanningSequence", "SequenceVariant", "MagneticFieldStrength", "StationName", "DeviceSerialNumber",
    "DeviceUID", "SoftwareVersions", "ContrastBolusAgent", "ImageComments", "SliceThickness",
    "InstanceNumber", "AcquisitionNumber", "InstitutionName", "AcquisitionType", "ImageType",
)  # fmt: skip
"""Attributes in the files ``.tags`` (getdcmtags/tags_list.h)."""
LONGEST_NOTICE = 200
"""Characters of a notice that are passed on."""
LARGEST_RECORD = 1 << 16
"""Bytes of a ``result.json`` that is kept."""
LEFT_OUT = "(a notice that names the patient, and is left out)"
_WHEREVER = 3  # letters from which a word of a name is looked for inside of other words


def file_names(uids: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield the file name of each image, from its Series and SOP Instance UID. A UID that would be no file
    name is 0, a name that was there before gets a number.
    """
    seen = Counter[str]()
    for series, instance in uids:
        name = "#".join(uid if _UID.fullmatch(uid) else "0" for uid in (series, instance))
        seen[name] += 1
        yield f"{name}.dcm" if seen[name] == 1 else f"{name}.{seen[name]}.dcm"


def write_tags(header: Dataset, image: Path) -> None:
    """Write the main attributes of an image, as text by keyword, beside its copy ``image``."""
    tags = {
        "SpecificCharacterSet": "ISO_IR 192",  # of this file
        "SeriesInstanceUID": _text(header, "SeriesInstanceUID"),
        "SOPInstanceUID": _text(header, "SOPInstanceUID"),
        "SenderAddress": _MISSING,
        "SenderAET": _MISSING,
        "ReceiverAET": _MISSING,
        **{keyword: _text(header, keyword) for keyword in _TAGS},
        "Filename": image.stem,
    }
    image.with_name(f"{image.stem}.tags").write_text(json.dumps(tags, ensure_ascii=False), "utf-8")


def write_task(headers: Sequence[Dataset], options: ProgramOptions, folder: Path) -> None:
    """Write ``task.json`` into ``folder`` for a module with these options, which has the settings of the rule
    and says of the job what mercure's says.
    """
    [header, *_] = headers
    series = {_text(one, "SeriesInstanceUID"): _text(one, "SeriesDescription") for one in headers}
    of_study = len(series) > 1
    study_uid = _text(header, "StudyInstanceUID")
    settings = dict(options.settings)
    task: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "info": {
            "action": "process",
            "uid": study_uid if of_study else next(iter(series)),
            "uid_type": "study" if of_study else "series",
            "triggered_rules": {},
            "applied_rule": "",
            "patient_name": _text(header, "PatientName"),
            "mrn": _text(header, "PatientID"),
            "acc": _text(header, "AccessionNumber"),
            "sender_address": _MISSING,
            "sender_aet": _MISSING,
            "receiver_aet": _MISSING,
            "mercure_version": "",
            "mercure_appliance": "dicom-node",
            "mercure_server": "",
            "device_serial_number": _text(header, "DeviceSerialNumber"),
            "fail_stage": None,
        },
        "dispatch": {},
        "process": {
            "module_name": options.model,
            "module_config": {
                "environment": json.dumps(dict(options.environment)),
                "settings": settings,
                "requires_persistence": bool(options.persistence),
            },
            "settings": settings,
            "retain_input_images": False,
            "output": None,
        },
        "study": _study(study_uid, series) if of_study else {},
        "nomad_info": None,
    }
    target = folder / TASK
    target.unlink(missing_ok=True)
    target.write_text(json.dumps(task, ensure_ascii=False), "utf-8")


def _study(study_uid: str, series: dict[str, str]) -> dict[str, Any]:
    """The part ``study`` of a task on several series, given as descriptions by UID."""
    return {
        "study_uid": study_uid,
        "complete_trigger": "timeout",
        "complete_required_series": "",
        "creation_time": "",
        "last_receive_time": "",
        "received_series": list(series.values()),
        "received_series_uid": list(series),
        "complete_force": False,
        "complete_force_action": "ignore",
    }


def _text(header: Dataset, keyword: str) -> str:
    """The value of an attribute as text; "" without one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they repeat values
        value = value_of(header, keyword)
        values = value if isinstance(value, MultiValue) else [value]
        return "\\".join("" if one is None else str(one) for one in values)


@contextmanager
def persistent(folder: str) -> Iterator[None]:
    """A context manager with a lock file in the folder that a module keeps, as mercure has it while the
    module runs; for "" it does nothing. Raises ProgramFailed if the folder cannot be written.
    """
    if not folder:
        yield
        return
    lock = Path(folder) / f"{uuid.uuid4()}.lock"
    try:
        lock.touch(exist_ok=False)
    except OSError as error:
        raise ProgramFailed("the folder that the program keeps (persistence) cannot be written") from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def notice(result: bytes | None, headers: Sequence[Dataset]) -> str:
    """The notice to persons in a module's ``result.json``, in one line of printable characters.

    "" without a notice. One that has a word of the patient's name, the ID or the Accession Number is left
    out, and LEFT_OUT says so: notices are shown where patients are not named.
    """
    try:
        found = json.loads(result or b"null")
        text = found["__mercure_notification"]["text"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    if not isinstance(text, str):
        return ""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return LEFT_OUT if _names_one_of(line.casefold(), headers) else line[:LONGEST_NOTICE]


def record(result: bytes | None) -> str:
    """The text of a module's ``result.json``, as mercure keeps it for persons; "" without one, and for one
    that is no JSON or larger than LARGEST_RECORD. It may name the patient.
    """
    if result is None or len(result) > LARGEST_RECORD:
        return ""
    try:
        json.loads(result)
        return result.decode()
    except (ValueError, RecursionError):
        return ""


def _names_one_of(line: str, headers: Sequence[Dataset]) -> bool:
    """Whether a line in lower case has a word of a patient's name, an ID, birth date or Accession Number.
    Short Latin words count where they stand alone: "Li" is also a part of "liver".
    """
    alone = {*re.split(r"\W+", line)}
    return any(
        word in alone or (word in line and (len(word) >= _WHEREVER or not word.isascii()))
        for header in headers
        for word in _identity_words(header)
    )


def _identity_words(header: Dataset) -> set[str]:
    """The words of the patient's name, and the numbers that name the patient, in lower case."""
    words = {*re.split(r"[\s^=,]+", _text(header, "PatientName").casefold())}
    numbers = ("PatientID", "PatientBirthDate", "AccessionNumber")
    return {word for word in words | {_text(header, one).casefold() for one in numbers} if word}
