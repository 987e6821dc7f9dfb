"""What the node reads of a received HL7 v2 message: who sent it, and what it says of which patient.

hl7apy reads the segments that are needed, each within a limit of delimiters: a segment with 100,000 fields
takes it 16 s, and 10,000 segments 8 s (measured with 1.3.5). So a message is split at its segment ends first,
and segments that nobody needs are skipped.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from dicom_connectors.hl7.oru import escaped
from dicom_node.base.dicom.identity import Patient, issuer_parts, patient_id_of
from dicom_node.base.errors import FaultyData

READ: Final = ("MSH", "PID", "MRG", "ORC", "OBR", "TQ1", "IPC", "ZDS")
_MOST_SEGMENTS: Final = 200  # PID and MRG that are read: a hundred merges
_MOST_DELIMITERS: Final = 2000  # in these segments together; a usual message has 200
_LONGEST: Final = 64  # characters of what is stored as it is (PS3.5 6.2: LO)
_CHARSETS: Final = {
    "": "utf-8",
    "ASCII": "ascii",
    "UNICODE": "utf-8",
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "ISO IR87": "iso2022_jp",
    **{f"8859/{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
}
"""HL7 table 0211; a message that names none is in UTF-8, of which ASCII is a part."""
_ESCAPES: Final = {"F": "|", "S": "^", "T": "&", "R": "~", "E": "\\"}
_SEX: Final = frozenset({"F", "M", "O"})  # HL7 table 0001 has others, which contradict nothing
_NULL = '""'  # "delete what you have" (2.5.3)


class MessageRefused(FaultyData):
    """A message is not taken. ``code``: AE or AR (table 0008), ``condition``: of table 0357."""

    def __init__(self, code: str, condition: str, reason: str) -> None:
        """``reason``: one sentence for who administers the sender, without text of the message."""
        super().__init__(reason)
        self.code, self.condition = code, condition


class OfAnotherSite(Exception):
    """A message names Patient IDs of other authorities only: it is acknowledged and changes nothing."""


@dataclass(frozen=True, slots=True)
class Header:
    """What MSH says, with the message's segments as text.

    ``application``: sending application and facility, as "RIS^HOSP". ``kind``: as "ADT^A40".
    """

    application: str
    control_id: str
    kind: str
    version: str
    segments: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class StatedPatient:
    """A patient as a message says: the IDs of the site's authority, one as a rule, and the texts of name,
    birth date and sex, in the form of DICOM; "" for what it does not say.
    """

    ids: Sequence[str]
    name: str = ""
    birth_date: str = ""
    sex: str = ""

    @property
    def hashes(self) -> Patient:
        """Hashes of name, birth date and sex, without an ID."""
        return Patient.from_values("", "", self.name, self.birth_date, self.sex)


def read_header(data: bytes) -> Header:
    """Return what the header of a message says, with its segments. Raises MessageRefused.

    Of a message that cannot be answered otherwise, the error has the control ID as far as it can be read
    (:func:`control_id_of`).
    """
    if b"\0" in data:
        raise MessageRefused("AR", "102", "the message has NUL bytes")
    first = data.replace(b"\n", b"\r").lstrip(b"\r").partition(b"\r")[0].decode("latin-1")
    _check_delimiters([first])
    encoding, version = _encoding(first)
    header = _segment(first, encoding, version)
    charset = _CHARSETS.get(text(header, 18).upper())
    if charset is None:
        raise MessageRefused("AR", "103", "MSH-18 names a character set that is not known here")
    try:
        decoded = data.decode(charset)
    except UnicodeDecodeError:
        raise MessageRefused(
            "AR", "102", "the text is not in the character set of MSH-18 (UTF-8 if empty)"
        ) from None
    lines = [line for line in re.split(r"[\r\n]+", decoded) if line[:3] in READ]
    if len(lines) > _MOST_SEGMENTS:
        raise MessageRefused("AR", "207", f"more than {_MOST_SEGMENTS} segments that are read here")
    _check_delimiters(lines)
    segments = [_segment(line, encoding, version) for line in lines]
    message, trigger = (component(segments[0], 9, number) for number in (1, 2))
    control_id = text(segments[0], 10)
    application = f"{text(segments[0], 3)}^{text(segments[0], 4)}"
    if not control_id or len(control_id) > _LONGEST or len(application) > _LONGEST:
        raise MessageRefused(
            "AR", "101", f"MSH-10 is empty, or it or MSH-3 and MSH-4 are longer than {_LONGEST}"
        )
    if not (control_id + application).isprintable():
        raise MessageRefused("AR", "102", "MSH-3, MSH-4 or MSH-10 has control characters")
    return Header(application, control_id, f"{message}^{trigger}"[:_LONGEST], version, segments)


def control_id_of(data: bytes) -> str:
    """Return MSH-10 of a message that may be faulty or cut off; "" if it cannot be read."""
    fields = data[:1000].lstrip(b"\r\n").partition(b"\r")[0].decode("ascii", "replace").split("|")
    found = fields[9] if len(fields) > 10 and fields[0] == "MSH" else ""
    return found if found.isprintable() and len(found) <= _LONGEST else ""


def patients_of(header: Header, authority: str) -> Iterator[tuple[StatedPatient, StatedPatient | None]]:
    """Yield each patient (PID) of a message, with the one that it replaces (MRG), None without.

    ``authority``: whose IDs count. Raises MessageRefused.
    """
    patient: StatedPatient | None = None
    for segment in header.segments:
        if segment.name == "PID":
            if patient is not None:
                yield patient, None
            patient = _patient(segment, authority)
        elif segment.name == "MRG" and patient is not None:
            yield patient, StatedPatient(_ids(segment, 1, authority))
            patient = None
    if patient is not None:
        yield patient, None


def acknowledgement(
    header: Header | None, control_id: str, code: str, refusal: MessageRefused | None
) -> bytes:
    """Return the ACK of a message; ``header`` is None if it could not be read.

    ``code``: AA, AE or AR. With a refusal its reason stands in ERR-8 (and MSA-3, for old receivers).
    """
    version = header.version if header else "2.5.1"
    to = "|".join(map(escaped, (header.application if header else "^").split("^", 1)))
    trigger = f"ACK^{escaped(header.kind.partition('^')[2])}" if header else "ACK"
    now = datetime.now(UTC)
    reason = escaped(str(refusal)) if refusal else ""
    lines = [
        f"MSH|^~\\&|AI-NODE||{to}|{now:%Y%m%d%H%M%S}+0000||{trigger}|{now:%Y%m%d%H%M%S%f}|P|{version}"
        "||||||UNICODE UTF-8",
        f"MSA|{code}|{escaped(control_id)}" + (f"|{reason}" if reason else ""),
    ]
    if refusal:
        lines.append(f"ERR|||{refusal.condition}^^HL70357|E||||{reason}")
    return "".join(f"{line}\r" for line in lines).encode()


def _encoding(first: str) -> tuple[dict[str, str], str]:
    """Return the delimiters and the version that the first segment states. Raises MessageRefused."""
    from hl7apy import SUPPORTED_LIBRARIES
    from hl7apy.exceptions import HL7apyException
    from hl7apy.parser import get_message_info

    try:
        encoding, _, version = get_message_info(first)
    except (HL7apyException, ValueError, IndexError):
        raise MessageRefused("AR", "100", "the message does not begin with MSH and its delimiters") from None
    if version not in SUPPORTED_LIBRARIES:
        raise MessageRefused("AR", "203", "MSH-12 names no version of HL7 from 2.1 to 2.8.2")
    return encoding, version


def _check_delimiters(lines: Sequence[str]) -> None:
    """Raise MessageRefused if reading these segments would take long, counting the usual delimiters and those
    that the message defines.
    """
    signs = {*"|^~&", *lines[0][3:8]} if lines else set()
    if sum(sum(map(line.count, signs)) for line in lines) > _MOST_DELIMITERS:
        raise MessageRefused("AR", "102", f"more than {_MOST_DELIMITERS} fields and parts of fields")


def _segment(line: str, encoding: dict[str, str], version: str) -> Any:
    """Return a segment as hl7apy reads it, tolerantly. Raises MessageRefused."""
    from hl7apy.exceptions import HL7apyException
    from hl7apy.parser import parse_segment

    try:
        return parse_segment(line, version=version, encoding_chars=encoding)
    except (HL7apyException, ValueError, IndexError, KeyError, AttributeError):
        raise MessageRefused("AR", "102", f"the segment {line[:3]} cannot be read") from None


def _repetitions(segment: Any, number: int) -> list[Any]:
    """Return the repetitions of a field, in order; [] if it is empty."""
    name = f"{segment.name}_{number}"
    return [field for field in segment.children if field.name == name]


def _part(field: Any, number: int) -> str:
    """Return one component of a repetition, its escapes decoded; "" if it is empty."""
    return _plain(_raw_part(field, number))


def component(segment: Any, field: int, number: int) -> str:
    """Return one component of the first repetition of a field; "" if it is empty."""
    return next((_part(one, number) for one in _repetitions(segment, field)), "")


def text(segment: Any, field: int) -> str:
    """Return the first component of the first repetition of a field; "" if it is empty."""
    return component(segment, field, 1)


def _plain(text: str) -> str:
    """Return a text with its escape sequences decoded (2.7.1), "" for the null value."""
    decoded = re.sub(r"\\([FSTRE])\\", lambda found: _ESCAPES[found[1]], text)
    return "" if text == _NULL else decoded


def _patient(segment: Any, authority: str) -> StatedPatient:
    """Return the patient of a PID segment. Raises MessageRefused."""
    sex, born = text(segment, 8).upper(), text(segment, 7)[:8]
    return StatedPatient(
        _ids(segment, 3, authority),
        _name(segment),
        born if re.fullmatch(r"\d{8}", born) else "",
        sex if sex in _SEX else "",
    )


def _ids(segment: Any, field: int, authority: str) -> list[str]:
    """Return the IDs of the authority in a field of CX, without repetitions. Raises MessageRefused."""
    found = []
    for one in _repetitions(segment, field):
        value = patient_id_of(_part(one, 1))
        if value and _is_of(_raw_part(one, 4), authority):
            found.append(value)
    if any(len(one) > _LONGEST or not one.isprintable() for one in found):
        raise MessageRefused("AE", "102", f"a Patient ID has more than {_LONGEST} characters, or controls")
    return list(dict.fromkeys(found))


def _raw_part(field: Any, number: int) -> str:
    """Return one component of a repetition as it stands, with its subcomponents. Names of types change from
    version to version, numbers do not.
    """
    parts = {}
    for child in field.children:
        _, _, place = (child.name or "").rpartition("_")
        if place.isdecimal():
            parts[int(place)] = child.to_er7()
    return str(parts.get(number, "") if parts or number > 1 else field.to_er7())


def _is_of(stated: str, authority: str) -> bool:
    """Return whether an assigning authority (HD) is this one: the same name or universal ID, and nothing that
    differs. None at all is that of a site whose messages name none.
    """
    mine, its = issuer_parts(authority), issuer_parts(stated)
    pairs = [(one, other) for one, other in zip(mine, its, strict=True) if one and other]
    same = all(one == other for one, other in pairs)
    return same and (bool(pairs) or not (any(mine) or any(its)))


def _name(segment: Any) -> str:
    """Return the legal name (XPN) as a DICOM name: prefix before suffix; "" if there is none."""
    for one in _repetitions(segment, 5):
        part = partial(_part, one)
        if part(7) in ("", "L", "D") and part(8) in ("", "A"):
            family = part(1).partition("&")[0]
            name = "^".join((family, part(2), part(3), part(5), part(4))).rstrip("^")
            return name if len(name) <= _LONGEST else ""
    return ""
