"""Elements, their repair, character sets, and the head of a data set."""

import io
import random
import struct
import zlib
from functools import cache
from operator import attrgetter
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pydicom
import pytest
from hypothesis import example, given, settings, strategies
from pydicom import config
from pydicom.charset import python_encoding
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.dsutils import encode

from ai_pipeline.contract import PipelineResult
from dicom_node.base.dicom.elements import Limits, Walk, read_uids
from dicom_node.base.dicom.header import (
    CharacterSet,
    Repairs,
    can_encode,
    character_sets,
    decoded,
    quiet_pydicom,
    repair,
    terms,
)
from dicom_node.base.dicom.uids import TRANSFER_SYNTAXES, TransferSyntax, transfer_syntax
from dicom_node.base.errors import DecodedDifferently
from dicom_node.base.lifecycle import ReaderVerdict, RejectionReason, ResultForm, ResultKind
from dicom_node.receive.inspection import inspect
from dicom_node.results.assessment import FindingAssessment, build_assessment
from dicom_node.results.build import build
from dicom_node.results.rejection import build_rejection
from dicom_node.results.source import repairs_of
from tests.modality import assign, data_set
from tests.result_images import ANALYSED_AT, CR, INSTALLATION, context, grey_image, source, write_image

LENGTH, CHARSET_LENGTH = 64, 48


NAME, CHARSET = b"N" * LENGTH, b"ISO_IR 100".ljust(CHARSET_LENGTH)


CHARSETS = [
    *(term for term in python_encoding if term),
    *("", "ISO-IR 100", "ISO 2022-IR 87", "ISO_IR 999"),
    *("\\ISO 2022 IR 149", "\\ISO 2022 IR 87", "\\ISO_IR 999"),
    *("ISO 2022 IR 13\\ISO 2022 IR 87\\ISO 2022 IR 159", "utf8", "unicode_escape", "utf_16", "rot13"),
]  # fmt: skip


PARTS = ["é", "山田", "홍길동", "小东", "ﾔﾏﾀﾞ", "Ж"]


KNOWN = [
    ("ISO_IR 100", "Buc^Jérôme".encode("latin-1"), "Buc^Jérôme"),
    ("ISO_IR 192", "Wang^XiaoDong=王^小东".encode(), "Wang^XiaoDong=王^小东"),
    ("GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong=王^小东"),
    ("\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7", "Hong^Gildong=洪^吉洞"),
    ("\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^Tarou=山田^太郎"),
    ("ISO 2022 IR 13\\ISO 2022 IR 87", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田"),
    ("\\ISO 2022 IR 58", b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab", "Zhang^XiaoDong=张^小东"),
    ("\\ISO 2022 IR 87", b"Yamada=\x1b$B;3ED", "Yamada=山田"),  # nothing ends the last group
    ("ISO_IR 203", b"M\xfcller^\xa4", "Müller^€"),
    ("ISO 2022 IR 6\\ISO 2022 IR 203", b"Muster^\x1b-b\xa4", "Muster^€"),
]


# Every other character set that DICOM defines, of which pydicom writes what is read back.
OF_RESULTS = [
    (charset, b"Muster^Eva", "Muster^Eva")
    for term in python_encoding
    if term
    and (charset := f"\\{term}" if term.startswith("ISO 2022") else term)
    not in {known for known, _, _ in KNOWN}
]


UNKNOWN = [
    ("", b"M\xfcller"), ("ISO_IR 6", b"M\xfcller"),
    ("ISO_IR 999", b"M\xfcller"), ("ISO_IR 192", b"M\xfcller"),
    ("\\ISO 2022 IR 149", b"M\xfcller"), ("", b"\x1b$B;3ED\x1b(B"), ("ISO_IR 100", b"\x1bX"),
    ("unicode_escape", rb"\ud800"),
]  # fmt: skip


@cache
def template() -> tuple[Path, bytes]:
    folder = Path(mkdtemp())
    path = write_image(
        folder / "cr.dcm", CR, grey_image(), SpecificCharacterSet="ISO_IR 100", PatientName=NAME.decode()
    )
    data = path.read_bytes()
    named = b"CS\x0a\0ISO_IR 100"
    assert data.count(NAME) == data.count(named) == 1
    return path, data.replace(named, b"CS" + CHARSET_LENGTH.to_bytes(2, "little") + CHARSET)


def received(charset: str, name: bytes) -> Path:
    """An image with these bytes as Patient Name and Specific Character Set."""
    path, data = template()
    data = data.replace(CHARSET, charset.encode("ascii").ljust(CHARSET_LENGTH))
    path.write_bytes(data.replace(NAME, name.ljust(LENGTH)))
    return path


def names() -> strategies.SearchStrategy[bytes]:
    piece = strategies.one_of(
        strategies.text("ABc ^=\\", max_size=8).map(str.encode),
        strategies.text(max_size=6).map(lambda text: text.encode("utf-8", "replace")),
        strategies.builds(
            str.encode,
            strategies.sampled_from(PARTS),
            strategies.sampled_from(["utf-8", "latin-1", "shift_jis", "euc_kr", "gb18030", "iso2022_jp"]),
            strategies.just("replace"),
        ),
        strategies.sampled_from(
            [
                b"\x1b$B",
                b"\x1b(J",
                b"\x1b(B",
                b"\x1b$)C",
                b"\x1b$(D",
                b"\x1b$)A",
                b"\x1b-A",
                b"\x1b)I",
                b"\x1bX",
            ]
        ),
        strategies.binary(max_size=4),
    )
    return strategies.lists(piece, max_size=8).map(lambda pieces: b"".join(pieces)[:LENGTH])


def built_name(path: Path) -> str:
    made = build(context(kinds=[ResultKind.SR]), [source(path)], PipelineResult())
    with quiet_pydicom():
        return str(pydicom.dcmread(io.BytesIO(made[0].data)).PatientName)


@settings(max_examples=20)
@given(strategies.sampled_from(CHARSETS), names())
@example("ISO_IR 100", b"=^=")
@example("ISO_IR 100", b"A\\B")
@example("ISO_IR 100", b"A\0B\n")
@example("ISO_IR 192", b"a=b=c=d")
@example("ISO_IR 6", b"\\===A")
@example("utf8", b"")
def test_the_inbox_accepts_a_name_if_and_only_if_results_can_bear_it(charset: str, name: bytes) -> None:
    path = received(charset, name)
    found = inspect(path)
    if not found.fault:
        built_name(path)
    else:
        assert found.fault.startswith("PatientName (0010,0010) cannot be decoded")
        with pytest.raises(DecodedDifferently):
            built_name(path)


@pytest.mark.parametrize(("charset", "raw", "name"), KNOWN, ids=[charset for charset, _, _ in KNOWN])
def test_a_name_is_the_same_in_the_inbox_and_in_results(charset: str, raw: bytes, name: str) -> None:
    path = received(charset, raw)
    assert inspect(path).identity["PatientName"] == built_name(path) == name


@pytest.mark.parametrize(
    ("charset", "raw", "name"), [*KNOWN, *OF_RESULTS, ("ISO_IR 100", b"A^B\\C^D", "A^B\\C^D")]
)
def test_results_in_their_sources_character_set_are_withdrawn_and_assessed_in_it(
    charset: str, raw: bytes, name: str, tmp_path: Path
) -> None:
    report, of_source = (
        tmp_path / "report.dcm",
        context(kinds=[ResultKind.SR], form=ResultForm(charset="source")),
    )
    made = build(of_source, [source(received(charset, raw))], PipelineResult())
    report.write_bytes(made[0].data or b"")
    said = (RejectionReason.QUALITY, "wrong film", ANALYSED_AT, "AINODE", INSTALLATION)
    verdict = ("Cyst", ("1", "99X"), "", "a model", "1", ReaderVerdict.MISSING, "", ANALYSED_AT)
    by = ([FindingAssessment(*verdict)], "ann", "AINODE", INSTALLATION, "")
    for one in (
        made[0],
        build_rejection([report], *said),
        build_assessment(report, *by),
    ):
        read = pydicom.dcmread(io.BytesIO(one.data or b""))
        assert character_sets(read) == terms(charset)
        bears = read.get_item("PatientName").value
        assert CharacterSet.from_terms(character_sets(read)).decode(bears, "PN").rstrip() == name


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("\\ISO 2022 IR 87", "für"),
        ("\\ISO 2022 IR 58", "홍"),
        ("ISO_IR 100", "\u2013"),
        ("", "ü"),
        ("ISO 2022 IR 100\\ISO 2022 IR 144", "Люкс^Müller"),  # pydicom reads the second half as Cyrillic
    ],
)
def test_a_character_set_holds_only_what_is_read_back_from_it(charset: str, text: str) -> None:
    dataset = pydicom.Dataset()
    dataset.StudyDescription = dataset.PatientName = text
    assert not can_encode(terms(charset), dataset)


@pytest.mark.parametrize(("charset", "raw"), UNKNOWN)
def test_bytes_of_no_named_set_are_refused(charset: str, raw: bytes) -> None:
    with pytest.raises((UnicodeError, LookupError)):
        CharacterSet.from_terms(terms(charset)).decode(raw, "PN")


def test_a_delimiter_of_names_ends_an_extension_in_names_only() -> None:
    korean = CharacterSet.from_terms(terms("\\ISO 2022 IR 149"))
    assert korean.decode(b"\x1b$)C\xfb\xf3^A", "PN") == korean.decode(b"\x1b$)C\xfb\xf3^A", "LO") == "洪^A"
    with pytest.raises(UnicodeError):
        korean.decode(b"\x1b$)C\xfb\xf3^\xd1\xce", "PN")
    assert korean.decode(b"\x1b$)C\xfb\xf3^\xd1\xce", "LO") == "洪^吉"


US, INSTANCE = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.826.0.1.3680043.10.543.1"


def encoded(syntax: TransferSyntax, dataset: Dataset | None = None) -> bytes:
    dataset = Dataset() if dataset is None else dataset
    head = {"SpecificCharacterSet": ["ISO 2022 IR 6", "ISO 2022 IR 87"], "ImageType": ["ORIGINAL", "PRIMARY"]}
    assign(dataset, SOPClassUID=US, SOPInstanceUID=INSTANCE, PatientComments="X" * 3000, **head)
    found = encode(dataset, syntax.is_implicit_vr, syntax.is_little_endian)
    if not syntax.is_deflated:
        return found
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflate.compress(found) + deflate.flush()


in_every_syntax = pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=attrgetter("uid"))


@in_every_syntax
def test_both_are_found_in_every_transfer_syntax(syntax: TransferSyntax) -> None:
    assert read_uids(encoded(syntax)[:1024], syntax)[:2] == (US, INSTANCE)


IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"


@pytest.mark.parametrize("uid", [IMPLICIT, EXPLICIT, BIG])
def test_what_is_cut_off_is_not_guessed(uid: str) -> None:
    syntax = transfer_syntax(uid)
    whole = encoded(syntax)
    for length in range(300):
        found = read_uids(whole[:length], syntax)[:2]
        assert found[0] in ("", US)
        assert found[1] in ("", INSTANCE)


@pytest.mark.parametrize(("real", "said"), [(IMPLICIT, EXPLICIT), (EXPLICIT, IMPLICIT)])
def test_a_data_set_in_another_syntax_than_negotiated_is_read_as_the_inspection_reads_it(
    real: str, said: str
) -> None:
    whole = encoded(transfer_syntax(real))
    assert read_uids(whole, transfer_syntax(said))[:2] == (US, INSTANCE)


def test_random_bytes_show_nothing_and_raise_nothing() -> None:
    chance = random.Random(20261124)
    for syntax in TRANSFER_SYNTAXES[:1] + tuple(one for one in TRANSFER_SYNTAXES if one.is_deflated):
        for _ in range(2000):
            assert read_uids(chance.randbytes(chance.randrange(64)), syntax) == ("", "", "", "")


def nested(depth: int, *, undefined: bool) -> Dataset:
    """A data set with sequences in sequences, which have UIDs of studies too."""
    dataset = data_set(StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.4")
    if depth:
        dataset.ReferencedStudySequence = [Dataset(), nested(depth - 1, undefined=undefined)]
        dataset["ReferencedStudySequence"].is_undefined_length = undefined
        for item in dataset.ReferencedStudySequence:
            item.is_undefined_length_sequence_item = undefined
            item.StudyInstanceUID = "9.9.9"
    return dataset


@pytest.mark.parametrize("undefined", [True, False])
@in_every_syntax
def test_the_study_is_found_behind_sequences_and_never_in_one(
    syntax: TransferSyntax, undefined: bool
) -> None:
    whole = encoded(syntax, nested(5, undefined=undefined))
    assert read_uids(whole, syntax, 2**20)[2:] == ("1.2.3", "1.2.4")


@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("uid", [IMPLICIT, EXPLICIT, BIG])
def test_what_is_cut_off_behind_sequences_is_not_guessed(uid: str, undefined: bool) -> None:
    syntax = transfer_syntax(uid)
    whole = encoded(syntax, nested(5, undefined=undefined))
    long = whole.index(b"X" * 3000)  # the value of an attribute is passed over, wherever it is cut
    for length in (*range(long), *range(long + 2990, len(whole))):
        assert set(read_uids(whole[:length], syntax, 2**20)[2:]) <= {"", "1.2.3", "1.2.4"}


def test_hostile_nesting_shows_nothing() -> None:
    syntax = transfer_syntax(EXPLICIT)
    opened = b"\x08\x00\x10\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    study = b"\x20\x00\x0d\x00UI\x06\x00" + b"9.9.9\0" + b"\x20\x00\x0e\x00UI\x02\x00" + b"1\0"
    for before in (opened * 50_000, SEQUENCE_END):
        assert read_uids(before + study, syntax, 2**20)[2:] == ("", "")


UNDEFINED = 0xFFFFFFFF


ITEM_END, SEQUENCE_END = b"\xfe\xff\x0d\xe0" + bytes(4), b"\xfe\xff\xdd\xe0" + bytes(4)


ID, STUDY, PIXELS, REFERENCES, PRIVATE = 0x00100020, 0x0020000D, 0x7FE00010, 0x00081140, 0x00091001


def explicit(tag: int, vr: bytes, value: bytes, length: int | None = None, order: str = "<") -> bytes:
    length = len(value) if length is None else length
    if vr in (b"OB", b"SQ", b"UN", b"UT"):
        return struct.pack(f"{order}HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, length) + value
    return struct.pack(f"{order}HH2sH", tag >> 16, tag & 0xFFFF, vr, length) + value


def implicit(tag: int, value: bytes, length: int | None = None) -> bytes:
    length = len(value) if length is None else length
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, length) + value


def item(value: bytes, length: int | None = None) -> bytes:
    return implicit(0xFFFEE000, value, length)


REAL, OTHER, UID = explicit(ID, b"LO", b"REAL"), explicit(ID, b"LO", b"B2B2"), explicit(STUDY, b"UI", b"1.25")


IN_IMPLICIT = implicit(ID, b"REAL") + implicit(STUDY, b"1.25")


IMAGE = explicit(PIXELS, b"OB", bytes(4))


REFERENCE = explicit(0x00081155, b"UI", b"1.30")


IN_PRIVATE = explicit(PRIVATE, b"LO", b"abcd")
META = explicit(0x00020010, b"UI", b"1.20")


def walked(data: bytes, syntax: str = EXPLICIT) -> tuple[dict[int, bytes], str]:
    """The values by tag, and the fault."""
    walk = Walk(io.BytesIO(data), transfer_syntax(syntax), Limits())
    return {one.tag: data[one.start : one.start + one.length] for one in walk.elements()}, walk.fault


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (EXPLICIT, lambda tag, value: explicit(tag, b"LO", value)),
        (IMPLICIT, implicit),
        (BIG, lambda tag, value: explicit(tag, b"LO", value, order=">")),
    ],
)
@pytest.mark.parametrize("first", [b"REAL", b""])
@pytest.mark.parametrize(
    "later",
    [((ID, b"B2B2"), (STUDY, b"1.25")), ((STUDY, b"1.25"), (ID, b"B2B2"))],
    ids=["at once", "behind another"],
)
def test_of_a_tag_that_stands_twice_the_first_counts(syntax: str, encode, first: bytes, later) -> None:  # type: ignore[no-untyped-def]
    data = encode(ID, first) + b"".join(encode(*element) for element in later)
    assert walked(data, syntax) == (
        {ID: first, STUDY: b"1.25"},
        "Patient ID (0010,0020) is given twice",
    )


@pytest.mark.parametrize(
    ("data", "syntax", "fault"),
    [
        (UID + REAL, EXPLICIT, "(0010,0020) is given after Study Instance UID (0020,000D)"),
        (REAL + UID + IMAGE + OTHER, EXPLICIT, "Patient ID (0010,0020) is given twice"),
        (
            explicit(REFERENCES, b"SQ", item(REFERENCE + REFERENCE)) + REAL + UID,
            EXPLICIT,
            "(0008,1155) is given twice in an item of Referenced Image Sequence (0008,1140)",
        ),
        (
            explicit(REFERENCES, b"UN", item(implicit(0x00081155, b"1.30") * 2)) + REAL + UID,
            EXPLICIT,
            "(0008,1155) is given twice in an item",
        ),
        (
            explicit(REFERENCES, b"SQ", b"", UNDEFINED)
            + item(REFERENCE + explicit(0x00081150, b"UI", b"1.31"), UNDEFINED)
            + ITEM_END
            + SEQUENCE_END
            + REAL
            + UID,
            EXPLICIT,
            "(0008,1150) is given after",
        ),
        (REAL + UID + META, EXPLICIT, "Transfer Syntax UID (0002,0010) is given after"),
        (explicit(REFERENCES, b"SQ", b"", UNDEFINED) + REAL + UID, EXPLICIT, "(0008,1140) never ends"),
        (
            explicit(REFERENCES, b"SQ", item(REFERENCE), UNDEFINED) + REAL + UID,
            EXPLICIT,
            "never ends: Patient ID (0010,0020) is where its next item would begin",
        ),
        (
            implicit(REFERENCES, b"", UNDEFINED) + IN_IMPLICIT,
            IMPLICIT,
            "(0008,1140) never ends",
        ),
        (
            b"II*\0" + bytes(124) + b"DICM" + explicit(0x00020001, b"OB", b"\0\1") + REAL + UID,
            EXPLICIT,
            "a whole file with its preamble",
        ),
        (explicit(REFERENCES, b"SQ", b"US ABDOMEN") + REAL + UID, EXPLICIT, "text where a sequence belongs"),
        (explicit(REFERENCES, b"UN", b"ABC") + REAL + UID, EXPLICIT, "(0008,1140) has text where a sequence"),
        (
            implicit(REFERENCES, b"US ABDOMEN") + IN_IMPLICIT,
            IMPLICIT,
            "Referenced Image Sequence (0008,1140) has text where a sequence belongs",
        ),
        (REAL + UID, IMPLICIT, "is in Explicit VR, its transfer syntax says Implicit VR"),
        (IN_IMPLICIT, EXPLICIT, "is in Implicit VR"),
        (  # DCMTK reads the item to its end: the second ID would be the first outside
            explicit(PRIVATE, b"SQ", item(IN_PRIVATE, len(IN_PRIVATE + OTHER)), 8 + len(IN_PRIVATE))
            + REAL
            + UID,
            EXPLICIT,
            "an item of the private attribute (0009,1001) is longer than its sequence",
        ),
        (
            implicit(PRIVATE, item(implicit(PRIVATE, b"ab"), 40)) + IN_IMPLICIT,
            IMPLICIT,
            "an item of the private attribute (0009,1001) is longer",
        ),
        (
            explicit(REFERENCES, b"SQ", item(explicit(0x00081155, b"UI", b"1.30", 44))) + REAL + UID,
            EXPLICIT,
            "(0008,1155) in an item of Referenced Image Sequence (0008,1140) is longer than its item",
        ),
    ],
)
def test_what_parsers_read_in_two_ways_is_a_fault_and_the_study_is_found(
    data: bytes, syntax: str, fault: str
) -> None:
    found, said = walked(data, syntax)
    assert fault in said
    assert (found[ID], found[STUDY]) == (b"REAL", b"1.25")


@pytest.mark.parametrize(
    ("after", "fault"),
    [
        (explicit(PRIVATE, b"ZZ", bytes(4)), "(0009,1001) has no VR"),
        (explicit(PRIVATE, b"??", bytes(4)), "(0009,1001) has no VR"),
        (explicit(PRIVATE, b"UT", item(b"abcd") + SEQUENCE_END, UNDEFINED), "has VR UT and no length"),
        (
            explicit(PRIVATE, b"UN", item(IN_PRIVATE, UNDEFINED) + ITEM_END + SEQUENCE_END, UNDEFINED),
            "is in Explicit VR (PS3.5 6.2.2)",
        ),
        (
            explicit(
                PRIVATE,
                b"SQ",
                item(implicit(PRIVATE, b"abcd"), UNDEFINED) + ITEM_END + SEQUENCE_END,
                UNDEFINED,
            ),
            "has no VR",
        ),
        (ITEM_END, "is where no item begins or ends"),
        (SEQUENCE_END, "is where no item begins or ends"),
        (explicit(PRIVATE, b"SQ", item(b"", UNDEFINED) + SEQUENCE_END, UNDEFINED), "no item begins or ends"),
        (bytes(8), "zeros"),
        (b"\r\nhello", "has no VR"),
    ],
)
def test_behind_what_nobody_can_read_no_element_counts(after: bytes, fault: str) -> None:
    found, said = walked(explicit(0x00080060, b"CS", b"US") + after + REAL + UID)
    assert fault in said
    assert ID not in found


@pytest.mark.parametrize(
    ("data", "syntax"),
    [
        (REAL + UID + IMAGE + bytes(70_000), EXPLICIT),
        (REAL + UID + IMAGE + bytes(5), EXPLICIT),
        (REAL + UID + IMAGE + explicit(0xFFFCFFFC, b"OB", bytes(20)), EXPLICIT),
        (
            REAL + UID + explicit(PIXELS, b"OB", item(b"") + item(b"\xff\xd8") + SEQUENCE_END, UNDEFINED),
            EXPLICIT,
        ),
        (explicit(REFERENCES, b"SQ", item(REFERENCE + ITEM_END) + SEQUENCE_END) + REAL + UID, EXPLICIT),
        (
            explicit(PRIVATE, b"UN", item(implicit(PRIVATE, b"ab") * 2) + SEQUENCE_END, UNDEFINED)
            + REAL
            + UID,
            EXPLICIT,
        ),
        (explicit(PRIVATE, b"SQ", item(IN_PRIVATE * 2)) + REAL + UID, EXPLICIT),  # read by nobody here
        (implicit(PRIVATE, b"ab") + IN_IMPLICIT + bytes(16), IMPLICIT),
        (IN_PRIVATE + explicit(PRIVATE, b"LO", b"other") + REAL + UID, EXPLICIT),
        (META + REAL + UID, EXPLICIT),
        (META + explicit(0x00020003, b"UI", b"1.21") + REAL + UID, EXPLICIT),
        (META + IN_IMPLICIT, IMPLICIT),
        (implicit(0x00020010, b"1.20") + IN_IMPLICIT, IMPLICIT),
    ],
)
def test_what_is_only_unusual_is_sound(data: bytes, syntax: str) -> None:
    found, fault = walked(data, syntax)
    assert (fault, (found[ID], found[STUDY])) == ("", (b"REAL", b"1.25"))


def test_a_sequence_that_nobody_walks_is_a_fault_in_big_endian() -> None:
    repeated = item(implicit(0x00081155, b"1.30") * 2)
    found, fault = walked(explicit(REFERENCES, b"UN", repeated, order=">") + REAL, BIG)
    assert fault.endswith("is a sequence with VR UN, in big endian")
    assert not found


def test_spaces_in_front_mean_nothing_but_identity_stays_to_the_letter() -> None:
    given = {"VOILUTFunction": " SIGMOID", "TimezoneOffsetFromUTC": " +0100", "ImageType": "DERIVED\\ X"}
    made = Dataset()
    for keyword, text in (given | {"PatientID": " 12"}).items():
        made.update(header_with(keyword, text))
    dataset = pydicom.filereader.read_dataset(io.BytesIO(encode(made, True, True) or b""), True, True)
    found = decoded(dataset, [*given, "PatientID"], ())
    assert [found[word].value for word in given] == ["SIGMOID", "+0100", ["DERIVED", "X"]]
    assert found.PatientID == " 12"


def header_with(keyword: str, value: Any) -> Dataset:
    header = Dataset()
    vr = pydicom.datadict.dictionary_VR(keyword)
    header[keyword] = DataElement(keyword, vr, value, validation_mode=config.IGNORE)
    return header


@pytest.mark.parametrize(
    ("keyword", "given", "right"),
    [
        ("StudyDate", "1994.11.05", "19941105"),
        ("StudyDate", "1994-11-05", "19941105"),
        ("StudyDate", "1994/1/5", "19940105"),
        ("StudyTime", "11:20:00", "112000"),
        ("StudyTime", "11:20:00.12345678", "112000.123456"),
        ("AcquisitionDateTime", "2025-01-02T10:15:00.5+01:00", "20250102101500.5+0100"),
        ("InstanceNumber", "4.000000", "4"),
        ("PatientWeight", "81.63270000000000001", "81.6327"),
        ("PatientAge", "75Y", "075Y"),
        ("BodyPartExamined", "Chest", "CHEST"),
        ("PatientSex", "f", "F"),
        ("TimezoneOffsetFromUTC", "+05:30", "+0530"),
    ],
)
def test_what_can_be_put_right_is_put_right(keyword: str, given: str, right: str) -> None:
    header = header_with(keyword, given)
    assert (repair(header), str(header[keyword].value)) == (Repairs(repaired={keyword}), right)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyDate", "20251332"),
        ("StudyTime", "99:00"),
        ("AcquisitionDateTime", "yesterday"),
        ("PatientWeight", "1e999"),
        ("PatientAge", "old"),
        ("BodyPartExamined", "ABDOM/RAD"),
        ("SmokingStatus", "0000"),
        ("ImageLaterality", "0000"),
        ("TimezoneOffsetFromUTC", "+2500"),
        ("TimezoneOffsetFromUTC", "UTC"),
        ("AcquisitionDateTime", "20250102101500+2500"),
    ],
)
def test_what_means_nothing_is_left_out_or_emptied(keyword: str, value: str) -> None:
    header = header_with(keyword, value)
    assert repair(header) == Repairs(left_out={keyword})
    assert keyword not in header
    header = header_with(keyword, value)
    repair(header, emptied=[keyword])
    assert header[keyword].value in (None, "")


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyDate", "20250102"),
        ("StudyTime", "235960"),
        ("AcquisitionDateTime", "202501"),
        ("AcquisitionDateTime", "20250102101500.000001+0100"),
        ("InstanceNumber", "+0007"),
        ("PatientWeight", "127."),
        ("PixelSpacing", ["1.171875e+00", "0.5"]),
        ("ReferringPhysicianName", "Who: 1994.11.05"),
    ],
)
def test_what_is_right_stays_to_the_letter(keyword: str, value: Any) -> None:
    header = header_with(keyword, value)
    before = header.to_json()
    assert not repair(header)
    assert header.to_json() == before


@pytest.mark.parametrize(
    ("given", "left_out"),
    [
        ({"WindowCenter": 128, "WindowWidth": 0}, ("WindowCenter", "WindowWidth")),
        ({"WindowCenter": [1, 2], "WindowWidth": [4, -1]}, ()),
        ({"FrameTimeVector": [0, 40], "NumberOfFrames": 3}, ("FrameTimeVector",)),
        ({"FrameTimeVector": [0, 40]}, ("FrameTimeVector",)),
        ({"FrameTimeVector": [0, 40, 40], "NumberOfFrames": 3}, ()),
        ({"FrameTimeVector": 0}, ()),
    ],
)
def test_windows_without_width_and_times_of_other_frames_are_left_out(
    given: dict[str, Any], left_out: tuple[str, ...]
) -> None:
    header = data_set(**given)
    assert repair(header).left_out == set(left_out)
    assert {element.keyword for element in header} == set(given) - set(left_out)
    assert "-1" not in str(header), "of several windows the first ones stay"


def test_items_are_repaired_and_broken_codes_and_references_left_out() -> None:
    reference = assign(header_with("ReferencedSOPInstanceUID", "999.999.1"), ReferencedSOPClassUID="1.2.3")
    header = assign(
        header_with("StudyInstanceUID", "999.999.01"),
        SequenceOfUltrasoundRegions=[header_with("PatientAge", "9M")],
        ProcedureCodeSequence=[data_set(CodeValue="1", CodingSchemeDesignator="SCT")],
        ReferencedStudySequence=[reference],
    )
    assert repair(header) == Repairs(
        repaired={"PatientAge"},
        left_out={"ProcedureCodeSequence", "ReferencedSOPInstanceUID", "ReferencedStudySequence"},
        kept={"StudyInstanceUID"},
    )
    assert header.SequenceOfUltrasoundRegions[0].PatientAge == "009M"
    assert header.StudyInstanceUID == "999.999.01"


def test_all_results_of_a_faulty_source_bear_the_repaired_values(tmp_path: Path) -> None:
    odd = {
        "PatientSex": "W",
        "StudyDate": "2025.01.02",
        "StudyTime": "10:15",
        "PatientAge": "75Y",
        "PatientName": "Mononym",
        "SmokingStatus": "0000",
        "StudyInstanceUID": "999.999.2",
    }
    with pytest.warns(UserWarning):
        path = write_image(tmp_path / "cr.dcm", CR, grey_image(), **odd)
    given = source(path)
    assert repairs_of([given]) == {
        given.image.uid: Repairs(
            {"PatientAge", "StudyDate", "StudyTime"}, {"PatientSex", "SmokingStatus"}, {"StudyInstanceUID"}
        )
    }
    built = build(context(), [given], PipelineResult())
    assert {one.kind for one in built} == {
        ResultKind.SR,
        ResultKind.GSPS,
        ResultKind.SC,
        ResultKind.SUMMARY,
        ResultKind.KEY_OBJECTS,
        ResultKind.PDF,
    }
    for one in built:
        read = pydicom.dcmread(io.BytesIO(one.data))
        assert (read.StudyDate, read.StudyTime, read.PatientAge) == ("20250102", "1015", "075Y")
        assert (read.PatientSex, read.PatientName) == ("", "Mononym")
        assert "SmokingStatus" not in read
        assert read.StudyInstanceUID == "999.999.2"


_HEAD = bytes(128) + b"DICM" + struct.pack("<HH2sH20s", 2, 0x10, b"UI", 20, ExplicitVRLittleEndian.encode())


@pytest.mark.parametrize(
    ("vr", "value", "uid"),
    [
        (b"UI", b"1.2.34", "1.2.34"),
        (b"UI", b"1.2.3\0", "1.2.3"),
        (b"LO", b"1.2.3 ", "1.2.3"),
        (b"UI", b" 1.2.3", ""),
        (b"UI", b"\x001.2.3", ""),
        (b"UI", b"1.2.3\n", ""),
        (b"AE", b"  1.2.3 ", ""),
        (b"LO", b"1.2\x1b(B.3", ""),
        (b"PN", b"1.2.3==", ""),
        (b"FD", struct.pack("<d", 1.2), ""),
    ],
    ids=repr,
)
def test_the_heads_of_uploads_and_the_inspection_read_the_same_uids(
    tmp_path: Path, vr: bytes, value: bytes, uid: str
) -> None:
    charset = explicit(0x00080005, b"CS", b"\\ISO 2022 IR 6 ")
    instance, study = explicit(0x00080018, vr, value), explicit(STUDY, vr, value)
    data, path = charset + instance + study, tmp_path / "object.dcm"
    path.write_bytes(_HEAD + data)
    found, syntax = inspect(path), transfer_syntax(ExplicitVRLittleEndian)
    assert (found.sop_instance_uid, found.study_instance_uid) == (uid, uid)
    assert read_uids(data, syntax)[1:3] == (uid, uid)


def test_an_element_whose_length_lies_beyond_what_was_read_ahead_is_whole() -> None:
    """The walk reads 8 KiB at a time: the length of a long VR may lie in the next."""
    for padding in range(8160, 8200, 2):
        first = b"\x08\x00\x05\x10UT\0\0" + padding.to_bytes(4, "little") + b" " * padding
        second = b"\x08\x00\x06\x10UT\0\0" + (4).to_bytes(4, "little") + b"text"
        walk = Walk(io.BytesIO(first + second), transfer_syntax("1.2.840.10008.1.2.1"), Limits())
        assert [element.length for element in walk.elements()] == [padding, 4]
        assert walk.fault == ""
