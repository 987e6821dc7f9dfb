"""Headers with all text decoded strictly: what cannot be decoded is never replaced by "?".

An object that does not say who it is of is refused; text that names nobody is left out.

The inbox decodes the data set that it has parsed under its limits (``receive.inspection``); builders of
results read the file again. Both use ``decoded``, so that they cannot disagree. ``ai_pipeline.images.header``
is separate: it knows nothing of the node, and reads no text that identifies a patient.

Text is decoded strictly by Specific Character Set (0008,0005) (PS3.5 6.1, PS3.3 C.12.1.1.2): pydicom puts
replacement characters where bytes do not fit the character set, and reads the default repertoire as ISO
8859-1. Both would hide that a patient's name is broken, and a wrong name on a result is worse than no result.

Attributes that are copied from a source are repaired: invalid values are corrected or left out. Otherwise a
source's mistake would be an error in our result. Old scanners and converters write dates with dots (ACR-NEMA
300), times with colons, whole numbers with a fraction, and unlisted codes (PS3.5 6.2). UIDs and what says who
stay unchanged: results belong to the patient and study of their source.
"""

import math
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import pydicom
from pydicom import charset as pydicom_sets
from pydicom import config
from pydicom.charset import (
    CODES_TO_ENCODINGS,
    ENCODINGS_TO_CODES,
    convert_encodings,
    decode_bytes,
    default_encoding,
    encode_string,
    python_encoding,
)
from pydicom.datadict import (
    dictionary_has_tag,
    dictionary_VM,
    dictionary_VR,
    keyword_for_tag,
    tag_for_keyword,
)
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import TEXT_VR_DELIMS, PersonName, format_number_as_ds
from pydicom.values import convert_PN

from ai_pipeline.images import part10  # noqa: F401  (mends every dcmread)
from ai_pipeline.images.dates import as_da, as_dt, as_tm
from ai_pipeline.images.numbers import DAMAGE, decimal, whole
from dicom_node.base.dicom.identity import COPIED, IDENTIFYING
from dicom_node.base.errors import DecodedDifferently, FaultyObject

CHARACTER_SET: Final = Tag("SpecificCharacterSet")
TEXT: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
"""Value representations that (0008,0005) governs (PS3.5 6.1.2.3)."""
ASCII: Final = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"})
"""Value representations in the default repertoire, whatever character set the object names."""
_PARTS: Final = re.compile(rb"^[^\x1b]+|\x1b[^\x1b]*")
# PS3.5 6.1.2.5.3: here the code elements return to the first set.
_RESET: Final = re.compile(rb"[\t\n\f\r\\]")
_RESET_IN_NAME: Final = re.compile(rb"[\t\n\f\r\\=^]")
# pydicom 3.0 takes escape sequences of ISO 2022 IR 58 for text, and lacks Latin alphabet No. 9 (PS3.3
# C.12.1.1.2).
_READ_BY_PYTHON: Final = ("iso2022_jp", "iso2022_jp_2")
pydicom_sets.handled_encodings = _READ_BY_PYTHON
python_encoding.update({"ISO_IR 203": "iso8859_15", "ISO 2022 IR 203": "iso8859_15"})
CODES_TO_ENCODINGS[b"\x1b-b"], ENCODINGS_TO_CODES["iso8859_15"] = "iso8859_15", b"\x1b-b"


@dataclass(frozen=True, slots=True)
class CharacterSet:
    """The decoder for text in one Specific Character Set (0008,0005).

    ``codecs``: a Python codec for each of its values, in their order. ``known``: whether DICOM defines all
    the values.
    """

    codecs: tuple[str, ...]
    known: bool

    @classmethod
    def from_terms(cls, terms: Sequence[str]) -> "CharacterSet":
        """Build the decoder for these values of Specific Character Set; without a value, or for an unknown
        one, it decodes ASCII only.
        """
        with config.strict_reading(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # common misspellings are put right
            try:
                codecs = convert_encodings(list(terms))
            except (LookupError, ValueError):
                return cls(("ascii",), known=False)
        return cls(
            tuple(map(_codec, codecs)),
            known=any(terms) and all(term in python_encoding for term in terms),
        )

    def decode(self, value: bytes, vr: str) -> str:
        """Decode a value, including its padding. Raises UnicodeError or LookupError if the bytes do not fit
        the character set.
        """
        if vr in ASCII:
            return value.decode("ascii")
        reset = _RESET_IN_NAME if vr == "PN" else _RESET
        text = "".join(self._part(part, reset) for part in _PARTS.findall(value))
        text.encode("utf-8")  # a lone surrogate can stand in no result
        return text

    def _part(self, part: bytes, reset: re.Pattern[bytes]) -> str:
        """Decode one part of a value: up to the first escape sequence, or from one escape sequence to the
        next.

        ``reset``: matches the characters after which the first codec applies again.
        """
        first = self.codecs[0]
        if not part.startswith(b"\x1b"):
            return part.decode(first)
        length = 4 if part.startswith((b"\x1b$(", b"\x1b$)")) else 3
        codec = _codec(CODES_TO_ENCODINGS[part[:length]])
        if codec not in (*self.codecs, "ascii"):
            raise LookupError("an escape sequence of a set that is not named")
        if codec in _READ_BY_PYTHON:
            return part.decode(codec)  # with its escape sequence
        text = part[length:]
        found = reset.search(text)
        end = found.start() if found else len(text)
        return text[:end].decode(codec) + text[end:].decode(first)


def character_sets(dataset: Dataset) -> tuple[str, ...]:
    """Return the values of Specific Character Set exactly as in the data set; empty if it has none."""
    found = dataset.get_item(CHARACTER_SET) if CHARACTER_SET in dataset else None
    if found is None or not found.value:
        return ()
    if isinstance(found.value, bytes):
        return terms(found.value.decode("ascii", "replace"))
    return terms(found.value) if isinstance(found.value, str) else tuple(map(str, found.value))


def terms(text: str) -> tuple[str, ...]:
    r"""Split a text into values at backslashes: ``\\ISO 2022 IR 149`` gives two, the first empty."""
    return tuple(term.strip("\0 ") for term in text.split("\\"))


def can_encode(charset: Sequence[str], dataset: Dataset) -> bool:
    """Return whether every text of a data set, written in the character set ``charset``, is read back
    unchanged.

    pydicom writes "?" for letters outside it, and ISO 8859-1 for the default repertoire. It reads the text
    behind ``^`` by the set before it, though PS3.5 6.1.2.5.3 returns to the first set there.
    """
    encodings, read = convert_encodings(list(charset)), CharacterSet.from_terms(charset)
    try:
        with quiet_pydicom():
            return all(
                _is_read_back(str(value), element.VR, encodings, read)
                for element, value in values(dataset)
                if element.VR in TEXT
            )
    except (UnicodeError, LookupError):
        return False


def _is_read_back(text: str, vr: str, encodings: Sequence[str], read: CharacterSet) -> bool:
    """Return whether a text, encoded with ``encodings``, is decoded to the same text by pydicom and by
    ``read``.
    """
    if vr == "PN":
        written = bytes(PersonName(text).encode(encodings))
        by_pydicom = str(convert_PN(written, list(encodings)))
    else:
        written = encode_string(text, list(encodings))
        by_pydicom = decode_bytes(written, encodings, TEXT_VR_DELIMS)
    return text == by_pydicom == read.decode(written, vr)


def _codec(encoding: str) -> str:
    """Return Python's codec name for an encoding of pydicom; "ascii" for DICOM's default."""
    return "ascii" if encoding == default_encoding else encoding


_ONE_VALUE = frozenset({"LT", "ST", "UR", "UT"})
_WITHOUT_SPACES = frozenset({"AE", "CS", "LO", "SH"})  # spaces in front mean nothing (PS3.5 6.2)
_NUMBERS = frozenset({"FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"})
# The VRs that can be read as one that a sender should have written, by the latter.
_READ_AS = {
    **dict.fromkeys(TEXT | ASCII, TEXT | ASCII),
    **dict.fromkeys(("DS", "IS"), TEXT | ASCII | _NUMBERS),
    **dict.fromkeys(_NUMBERS, _NUMBERS),
    **dict.fromkeys(("OB", "OW"), frozenset({"OB", "OW"})),
}


@dataclass(frozen=True, slots=True)
class DecodedHeader:
    """Attributes of an object with their text decoded.

    ``charset``: the values of Specific Character Set by which they were decoded. ``left_out``: keywords of
    attributes that could not be decoded or have an invalid value.
    """

    dataset: Dataset
    charset: tuple[str, ...]
    left_out: frozenset[str] = frozenset()


def read_header(path: Path, keywords: Collection[str], assume_charset: str = "") -> DecodedHeader:
    """Read the attributes ``keywords`` of a Part 10 file, without Pixel Data, with all text decoded.

    ``assume_charset``: the character set to try if the object's own does not fit; "" for none.
    ``SpecificCharacterSet`` of the returned data set is the one that was used. Raises DecodedDifferently,
    FaultyObject.
    """
    with quiet_pydicom():
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        charset, left_out = read_identity(dataset, assume_charset).charset, set[str]()
        header = decoded(dataset, keywords, charset, left_out)
    if CharacterSet.from_terms(charset).known:
        header.SpecificCharacterSet = list(charset) if len(charset) > 1 else charset[0]
    header.file_meta = dataset.file_meta
    header.set_original_encoding(*dataset.original_encoding)
    return DecodedHeader(header, charset, frozenset(left_out))


def read_identity(dataset: Dataset, assume_charset: str = "") -> DecodedHeader:
    """Decode the attributes of patient and study that results copy from an image, by the object's own
    character set or else by ``assume_charset`` ("" for none).

    If neither fits all of them, non-identifying text is left out. Raises
    :class:`~dicom_node.base.errors.DecodedDifferently`, which names the attribute but not its value, and
    FaultyObject.
    """
    sets = (character_sets(dataset), *((terms(assume_charset),) if assume_charset else ()))
    faults: list[DecodedDifferently | FaultyObject] = []
    for charset in sets:
        try:
            return DecodedHeader(decoded(dataset, COPIED, charset), charset)
        except (DecodedDifferently, FaultyObject) as fault:
            faults.append(fault)
    for charset in sets:
        try:
            decoded(dataset, IDENTIFYING, charset)
        except (DecodedDifferently, FaultyObject) as fault:
            faults.append(fault)
        else:
            left_out: set[str] = set()
            return DecodedHeader(decoded(dataset, COPIED, charset, left_out), charset, frozenset(left_out))
    raise faults[len(sets)]


def decoded(
    dataset: Dataset, keywords: Collection[str], charset: Sequence[str], left_out: set[str] | None = None
) -> Dataset:
    """Return the attributes ``keywords`` of a data set, decoded by the values ``charset`` of Specific
    Character Set, also in sequence items.

    Each attribute gets the VR of the data dictionary. Keywords of attributes that cannot be decoded are added
    to ``left_out``; if ``left_out`` is None, such an attribute raises DecodedDifferently, or FaultyObject if
    its VR is wrong or it is too long to be read.
    """
    codecs = CharacterSet.from_terms(charset)
    header = Dataset()
    for keyword in keywords:
        tag = tag_for_keyword(keyword)
        if tag is not None and tag in dataset and tag != CHARACTER_SET:
            _put(header, dataset, Tag(tag), codecs, left_out)
    return header


def readable_text(dataset: Dataset, keyword: str, charset: Sequence[str]) -> str:
    """Return an attribute as text for comparison with the patterns of rules, with U+FFFD for undecodable
    bytes; "" if it is missing.
    """
    tag = Tag(keyword)
    element = dataset.get_item(tag, keep_deferred=True) if tag in dataset else None
    if element is None or element.value is None:
        return ""
    if not isinstance(element, RawDataElement):
        text = str(element.value)
    else:
        try:
            text = CharacterSet.from_terms(charset).decode(element.value, "LO")
        except (UnicodeError, LookupError):
            text = element.value.decode("utf-8", "replace")
    # NUL characters have no meaning, and PostgreSQL cannot store them.
    text = "\\".join(part.replace("\0", "").strip() for part in text.split("\\"))
    return text.upper() if dictionary_VR(tag) == "CS" else text


def vr_of(element: DataElement | RawDataElement) -> str:
    """Return the VR of an element; the VR of the data dictionary if the element has none or UN."""
    if element.VR not in {None, "UN"}:
        return str(element.VR)
    return dictionary_VR(element.tag).split(" or ")[0] if dictionary_has_tag(element.tag) else "UN"


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Context manager: keep pydicom's warnings about values out of the log, because they quote the values,
    which may be PHI.
    """
    before = config.logger.disabled
    config.logger.disabled = True  # it logs what it warns of as well
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        config.logger.disabled = before


def _put(
    header: Dataset, dataset: Dataset, tag: BaseTag, charset: CharacterSet, left_out: set[str] | None
) -> None:
    """Put the decoded attribute ``tag`` of ``dataset`` into ``header``, or its keyword into ``left_out`` if
    it cannot be decoded; with ``left_out`` None raise instead.
    """
    try:
        element = _element(dataset, tag, charset, left_out)
    except (DecodedDifferently, FaultyObject):
        if left_out is None:
            raise
        element = None
    if element is not None:
        header[tag] = element
    elif left_out is not None:
        left_out.add(keyword_for_tag(tag))


def _element(
    dataset: Dataset, tag: BaseTag, charset: CharacterSet, left_out: set[str] | None
) -> DataElement | None:
    """Return the decoded attribute in a VR of the data dictionary; None if its bytes do not fit that VR.
    Raises DecodedDifferently, FaultyObject.
    """
    found = dataset.get_item(tag, keep_deferred=True)
    vr, allowed = vr_of(found), dictionary_VR(tag).split(" or ")
    wanted = vr if vr in allowed else allowed[0]
    if vr != wanted and vr not in _READ_AS.get(wanted, ()):
        raise FaultyObject(f"{keyword_for_tag(tag)} {tag} has the value representation {vr}, not {wanted}")
    if isinstance(found, RawDataElement):
        if found.value is None and found.length:
            raise FaultyObject(f"{keyword_for_tag(tag)} {tag} is longer than an attribute may be")
        if vr in TEXT | ASCII:
            return _text_element(tag, vr, wanted, found.value or b"", charset)
    try:
        read = dataset[tag]
        value = read.value
    except DAMAGE:
        return None  # an optional attribute that is no value of its VR; required ones are checked by the gate
    if isinstance(found, RawDataElement) and found.VR in (None, "UN") and read.VR in allowed:
        wanted = read.VR  # of "US or SS" and "OB or OW", by Pixel Representation and Bits Allocated
    if wanted != "SQ":
        return _made(tag, wanted, value)
    return _made(tag, "SQ", Items([_item(item, charset, left_out) for item in value]))


def _text_element(
    tag: BaseTag, vr: str, wanted: str, value: bytes, charset: CharacterSet
) -> DataElement | None:
    """Return a text attribute, decoded by ``charset``; None if it does not fit the VR ``wanted``. Raises
    DecodedDifferently.

    ``vr``: the VR that the object has.
    """
    try:
        text = charset.decode(value.rstrip(b"\0 "), vr).rstrip("\0 ")  # padding is of no multi-byte set
        if vr in ASCII and "\x1b" in text:
            raise UnicodeError
    except (UnicodeError, LookupError) as error:
        raise DecodedDifferently(
            f"{keyword_for_tag(tag)} {tag} cannot be decoded with its Specific Character Set (0008,0005): "
            "set assume_charset for this peer"
        ) from error
    values = [text] if wanted in _ONE_VALUE else text.split("\\")
    if wanted in _WITHOUT_SPACES and keyword_for_tag(tag) not in IDENTIFYING:
        values = [one.strip() for one in values]
    return _made(tag, wanted, values[0] if len(values) == 1 else values)


def _item(item: Dataset, inherited: CharacterSet, left_out: set[str] | None) -> Dataset:
    """Return a copy of a sequence item with its text decoded, by the item's own character set or else by
    ``inherited``.
    """
    own = character_sets(item)
    charset = CharacterSet.from_terms(own) if any(own) else inherited
    copy = Dataset()
    for tag in item.keys():  # noqa: SIM118  iterating a Dataset converts (and decodes) its elements
        if tag != CHARACTER_SET and not tag.is_private and dictionary_has_tag(tag):
            _put(copy, item, tag, charset, left_out)
    return copy


def _made(tag: BaseTag, vr: str, value: Any) -> DataElement | None:
    """Build an element with this value; None if the value does not fit the VR."""
    try:
        return DataElement(tag, vr, value, validation_mode=config.IGNORE)
    except (ValueError, TypeError, OverflowError, ArithmeticError):
        return None


def items(dataset: Dataset) -> Iterator[Dataset]:
    """Yield the data set and every sequence item in it, outer ones first; an item removed during iteration is
    skipped.
    """
    yield dataset
    for element in _elements(dataset):
        if element.VR == "SQ":
            for item in element.value:
                yield from items(item)


def values(dataset: Dataset) -> Iterator[tuple[DataElement, Any]]:
    """Yield each value that is neither a sequence nor empty, as (its element, value), also from sequence
    items.
    """
    for item in items(dataset):
        for element in _elements(item):
            if element.VR != "SQ" and element.value not in (None, ""):
                for value in element.value if element.VM > 1 else [element.value]:
                    yield element, value


def listed(value: Any) -> tuple[Any, ...]:
    """Return the value of an attribute as a tuple of its values; empty for None or ""."""
    if value in (None, ""):
        return ()
    return tuple(value) if isinstance(value, MultiValue | list) else (value,)


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    """Yield all elements in order of their tags; an element whose value does not fit its VR is yielded with
    its raw bytes as OB.
    """
    for tag in sorted(dataset.keys()):
        try:
            element = dataset[tag]
        except DAMAGE:
            raw = dataset.get_item(tag, keep_deferred=True)
            element = DataElement(tag, "OB", raw.value or b"", validation_mode=config.IGNORE)
        yield element


_UID: Final = re.compile(r"([01]\.[1-3]?\d|2\.(0|[1-9]\d*))(\.(0|[1-9]\d*))*")
_AGE: Final = re.compile(r"(\d{1,3}) ?([DWMY])")
_CODE_STRING: Final = re.compile(r"[A-Z0-9 _]{1,16}")
_DECIMAL: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_OFFSET: Final = re.compile(r"-((0\d|1[01]):?[0-5]\d|12:?00)|\+((0\d|1[0-3]):?[0-5]\d|14:?00)")
_WHOLE: Final = re.compile(r"[+-]?\d{1,11}")

# Values that PS3.3 enumerates, of the attributes that results take over.
_ENUMERATED: Final = {
    "ImageLaterality": {"R", "L", "U", "B"},
    "Laterality": {"R", "L"},
    "LossyImageCompression": {"00", "01"},
    "PatientSex": {"M", "F", "O"},
    "PatientSexNeutered": {"ALTERED", "UNALTERED"},
    "PixelSpacingCalibrationType": {"GEOMETRY", "FIDUCIAL"},
    "QualityControlSubject": {"YES", "NO"},
    "ShutterShape": {"RECTANGULAR", "CIRCULAR", "POLYGONAL"},
    "SmokingStatus": {"YES", "NO", "UNKNOWN"},
    "SyntheticData": {"YES", "NO"},
    "VOILUTFunction": {"LINEAR", "LINEAR_EXACT", "SIGMOID"},
}
# What an item must have, by its sequence. Codes, references and issuers have their own.
_REQUIRED: Final[dict[str, tuple[str, ...]]] = {
    "OtherPatientIDsSequence": ("PatientID", "TypeOfPatientID"),
    "SourcePatientGroupIdentificationSequence": ("PatientID",),
    "GroupOfPatientsIdentificationSequence": ("PatientID",),
    "StrainStockSequence": ("StrainStockNumber", "StrainSource", "StrainSourceRegistryCodeSequence"),
    "GeneticModificationsSequence": ("GeneticModificationsDescription", "GeneticModificationsNomenclature"),
    "BreedRegistrationSequence": ("BreedRegistrationNumber", "BreedRegistryCodeSequence"),
    "ReferringPhysicianIdentificationSequence": ("PersonIdentificationCodeSequence",),
    "ConsultingPhysicianIdentificationSequence": ("PersonIdentificationCodeSequence",),
    "PhysiciansOfRecordIdentificationSequence": ("PersonIdentificationCodeSequence",),
    "PhysiciansReadingStudyIdentificationSequence": ("PersonIdentificationCodeSequence",),
    "OtherClinicalTrialProtocolIDsSequence": ("ClinicalTrialProtocolID",),
    "ConsentForClinicalTrialUseSequence": ("ConsentForDistributionFlag",),
    "ModalityLUTSequence": ("LUTDescriptor", "LUTData"),
    "VOILUTSequence": ("LUTDescriptor", "LUTData"),
}
# Of several alternatives one.
_ISSUER: Final = (("LocalNamespaceEntityID",), ("UniversalEntityID", "UniversalEntityIDType"))
_OF_CODES: Final = frozenset({"AnatomicRegionSequence", "AnatomicRegionModifierSequence"})
_LENGTHS: Final = {
    "AE": 16,
    "SH": 16,
    "LO": 64,
    "ST": 1024,
    "LT": 10240,
    "UC": 2**16,
    "UR": 2**16,
    "UT": 2**16,
}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_FORBIDDEN: Final = {
    **dict.fromkeys(("LT", "ST", "UT"), re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")),
    "UR": re.compile(r"[\x00-\x20\x7f]"),
}
_RANGES: Final = {
    "US": (0, 2**16 - 1), "SS": (-(2**15), 2**15 - 1), "UL": (0, 2**32 - 1), "SL": (-(2**31), 2**31 - 1),
    "UV": (0, 2**64 - 1), "SV": (-(2**63), 2**63 - 1), "FL": (-3.4e38, 3.4e38), "FD": (-1.7e308, 1.7e308),
}  # fmt: skip
_CODES: Final = (
    ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"),
    ("LongCodeValue", "CodingSchemeDesignator", "CodeMeaning"),
    ("URNCodeValue", "CodeMeaning"),
)


@dataclass(frozen=True, slots=True)
class Repairs:
    """Keywords of the attributes with invalid values in a header; never the values, which may be PHI.

    ``repaired``: corrected ones. ``left_out``: removed ones. ``kept``: invalid UIDs and over-long identifying
    text, which results repeat nevertheless.
    """

    repaired: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        """Return whether any attribute is named."""
        return bool(self.repaired or self.left_out or self.kept)


def repair(header: Dataset, emptied: Collection[str] = (), unread: Collection[str] = ()) -> Repairs:
    """Correct invalid values of a header in place, and remove attributes that cannot be corrected; return
    what was changed.

    Each value is then valid by PS3.5 6.2 and PS3.6, in sequence items too; a sequence with an incomplete item
    is removed. Identifying text (``IDENTIFYING``) is never changed. ``emptied``: keywords of attributes to be
    emptied instead of removed. ``unread``: keywords of attributes that could not be decoded.
    """
    notes = Repairs(left_out=set(unread))
    for keyword in {*emptied}.intersection(unread):
        setattr(header, keyword, None)
    for keyword in _without_meaning(header, notes):
        notes.left_out.add(keyword)
        del header[keyword]
    for element in list(header):
        keyword = element.keyword
        if element.VR == "UI" and not _are_uids(element):
            notes.kept.add(keyword)
        elif not _repair_element(header, element, notes):
            notes.left_out.add(keyword)
            if keyword in emptied:
                header[element.tag] = DataElement(element.tag, element.VR, None)
            else:
                del header[element.tag]
        elif _is_empty(element) and keyword not in emptied:
            del header[element.tag]  # it says nothing, and what is of Type 1 or 1C may not be empty
    return notes


def _without_meaning(header: Dataset, notes: Repairs) -> list[str]:
    """Return the keywords of attributes that say nothing: windows without a width (PS3.3 C.11.2.1.2), and
    frame times for another number of frames (C.7.6.5).

    Valid windows before the first invalid one are retained in ``header``, which ``notes`` records.
    """
    centres, widths, times, frames = (
        _values(header[keyword]) if keyword in header else ()
        for keyword in ("WindowCenter", "WindowWidth", "FrameTimeVector", "NumberOfFrames")
    )
    sound = [
        *takewhile(
            lambda pair: decimal(pair[0]) is not None and (decimal(pair[1]) or 0) > 0,
            zip(centres, widths, strict=False),
        )
    ]
    window = "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation"
    is_sound = len(sound) == max(len(centres), len(widths))
    found = [] if is_sound else [keyword for keyword in window if keyword in header]
    if sound and found:
        header.WindowCenter, header.WindowWidth = (list(part) for part in zip(*sound, strict=True))
        notes.repaired.update(window[:2])
        found = found[2:]
    if times and len(times) != (whole(*frames[:1]) if frames else 1):
        found.append("FrameTimeVector")
    return found


def _repair_element(dataset: Dataset, element: DataElement, notes: Repairs) -> bool:
    """Correct an attribute of ``dataset`` in place, recording it in ``notes``; return whether results may
    repeat it.
    """
    if _is_empty(element):
        return True
    if element.VR == "SQ":
        return all(_repair_item(element.keyword, item, notes) for item in element.value)
    if element.VR == "UI":
        return _are_uids(element)
    if _correct_values(dataset, element, notes) and _fits(dataset[element.tag]):
        return True
    if element.VR in TEXT and element.keyword in IDENTIFYING:
        notes.kept.add(element.keyword)
        return True
    return False


def _repair_item(keyword: str, item: Dataset, notes: Repairs) -> bool:
    """Remove invalid attributes from a sequence item; return whether the rest of the item is complete.
    ``keyword``: of the sequence.

    In an item of a code sequence, empty attributes are removed as well (PS3.3 8.8).
    """
    codes = keyword.endswith("CodeSequence") or keyword in _OF_CODES
    for element in list(item):
        if not _repair_element(item, element, notes):
            notes.left_out.add(element.keyword)
            del item[element.tag]
        elif codes and _is_empty(element):
            del item[element.tag]
    if codes:
        values = [word for word in ("CodeValue", "LongCodeValue", "URNCodeValue") if word in item]
        return len(values) == 1 and any(all(word in item for word in one) for one in _CODES)
    if keyword.startswith("Referenced"):
        return "ReferencedSOPClassUID" in item and "ReferencedSOPInstanceUID" in item
    wanted = _ISSUER if keyword.startswith("Issuer") else (_REQUIRED.get(keyword, ()),)
    return len(item) > 0 and any(all(item.get(word) for word in one) for one in wanted)


def _is_empty(element: DataElement) -> bool:
    """Return whether an element has no value, or a sequence no item."""
    return element.value in (None, "") or (element.VR == "SQ" and not element.value)


def _fits(element: DataElement) -> bool:
    """Return whether the element has as many values as PS3.6 allows, and each of them is valid by PS3.5
    6.2.
    """
    values = _values(element)
    if not _is_allowed(dictionary_VM(element.tag), len(values)):
        return False
    # PS3.3 8.8: what fits into Code Value stands there.
    shortest = _LENGTHS["SH"] + 1 if element.keyword == "LongCodeValue" else 0
    return all(len(str(one)) >= shortest and _is_value(element.VR, one) for one in values)


def _is_value(vr: str, value: Any) -> bool:
    """Return whether a value is valid for its VR: its length and characters, or the range of a number."""
    if vr in {"DS", "IS"}:
        return value not in (None, "")
    if vr in _RANGES:
        lowest, highest = _RANGES[vr]
        return isinstance(value, type(lowest)) and lowest <= value <= highest
    if vr == "PN":
        return all(len(group) <= 64 for group in str(value).split("="))
    return len(str(value)) <= _LENGTHS.get(vr, math.inf) and not _FORBIDDEN.get(vr, _CONTROL).search(
        str(value)
    )


def _is_allowed(multiplicity: str, count: int) -> bool:
    """Return whether a value multiplicity such as 1, 2, 1-n, 2-2n or 1-3 allows ``count`` values."""
    least, _, most = multiplicity.partition("-")
    if most.endswith("n"):
        return count >= int(least) and count % int(most[:-1] or 1) == 0
    return int(least) <= count <= int(most or least)


def _correct_values(dataset: Dataset, element: DataElement, notes: Repairs) -> bool:
    """Correct the values of an element in place, adding its keyword to ``notes.repaired`` if they changed;
    return False if they cannot be corrected.
    """
    right = _RIGHT.get(element.keyword, _RIGHT.get(element.VR))
    allowed = _ENUMERATED.get(element.keyword)
    if right is None or element.value in (None, ""):
        return True
    given = [str(one).strip(" \0") for one in _values(element)]
    values = [right(one) if one else "" for one in given]
    if any(one is None or (one and allowed and one not in allowed) for one in values):
        return False
    if values != given:
        notes.repaired.add(element.keyword)
        value = values if len(values) > 1 else values[0]
        dataset[element.tag] = DataElement(element.tag, element.VR, value, validation_mode=config.IGNORE)
    return True


def _are_uids(element: DataElement) -> bool:
    """Return whether all values of an element that are not empty are valid UIDs."""
    return all(len(str(one)) <= 64 and _UID.fullmatch(str(one)) for one in _values(element) if one)


def _values(element: DataElement) -> Sequence[Any]:
    """Return the values of an element as a list, also if it has only one."""
    several: bool = isinstance(element.value, MultiValue | list)
    return element.value if several else [element.value]


def _age(text: str) -> str | None:
    """Return an age in the form of VR AS (such as 042Y); None if the text is not an age."""
    found = _AGE.fullmatch(text.upper())
    return found and f"{int(found[1]):03}{found[2]}"


def _code_string(text: str) -> str | None:
    """Return a text in the form of VR CS (capitals); None if it has other characters or is too long."""
    return text.upper() if _CODE_STRING.fullmatch(text.upper()) else None


def _whole_number(text: str) -> str | None:
    """Return a number in the form of VR IS; None if the text is not a whole number of 32 bits."""
    number = float(text) if _DECIMAL.fullmatch(text) else math.nan
    if not (abs(number) < 2**31 and number.is_integer()):
        return None
    return text if _WHOLE.fullmatch(text) else str(int(number))


def _decimal(text: str) -> str | None:
    """Return a number in the form of VR DS (at most 16 characters); None if the text is not a finite
    number.
    """
    if not _DECIMAL.fullmatch(text) or not math.isfinite(float(text)):
        return None
    return text if len(text) <= 16 else str(format_number_as_ds(float(text)))


def _offset(text: str) -> str | None:
    """Return an offset from UTC in the form +HHMM; None if the text is not one."""
    return text.replace(":", "").replace("-0000", "+0000") if _OFFSET.fullmatch(text) else None


_RIGHT: Final[dict[str, Callable[[str], str | None]]] = {
    "AS": _age,
    "CS": _code_string,
    "DA": as_da,
    "DS": _decimal,
    "DT": as_dt,
    "IS": _whole_number,
    "TM": as_tm,
    "TimezoneOffsetFromUTC": _offset,
}
"""By value representation or keyword: the text as PS3.5 6.2 wants it, None where its meaning is unclear."""
