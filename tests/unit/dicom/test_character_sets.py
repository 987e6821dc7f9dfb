"""One decoder: what the inbox takes in can be put into results, and what it refuses cannot."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pydicom
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.charset import python_encoding

from ai_pipeline.contract import PipelineResult
from dicom_node import results
from dicom_node.dicom.character_sets import CharacterSet, terms
from dicom_node.dicom.header import quiet_pydicom
from dicom_node.errors import DecodedDifferently
from dicom_node.inbox.inspection import inspect
from dicom_node.model.kinds import ResultKind
from tests.result_images import CR, context, grey_image, source, write_image

LENGTH, CHARSET_LENGTH = 64, 48
NAME, CHARSET = b"N" * LENGTH, b"ISO_IR 100".ljust(CHARSET_LENGTH)
ESCAPES = [
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
CHARSETS = [
    *(term for term in python_encoding if term),
    *("", "ISO-IR 100", "ISO 2022-IR 87", "ISO_IR 999"),
    *("\\ISO 2022 IR 149", "\\ISO 2022 IR 87", "\\ISO_IR 999"),
    *("ISO 2022 IR 13\\ISO 2022 IR 87\\ISO 2022 IR 159", "utf8", "unicode_escape", "utf_16", "rot13"),
]  # fmt: skip
PARTS = ["é", "山田", "홍길동", "小东", "ﾔﾏﾀﾞ", "Ж"]
CODECS = ["utf-8", "latin-1", "shift_jis", "euc_kr", "gb18030", "iso2022_jp"]
KNOWN = [
    ("ISO_IR 100", "Buc^Jérôme".encode("latin-1"), "Buc^Jérôme"),
    ("ISO_IR 192", "Wang^XiaoDong=王^小东".encode(), "Wang^XiaoDong=王^小东"),
    ("GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong=王^小东"),
    ("\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7", "Hong^Gildong=洪^吉洞"),
    ("\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^Tarou=山田^太郎"),
    ("ISO 2022 IR 13\\ISO 2022 IR 87", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田"),
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


def names() -> st.SearchStrategy[bytes]:
    piece = st.one_of(
        st.text("ABc ^=\\", max_size=8).map(str.encode),
        st.text(max_size=6).map(lambda text: text.encode("utf-8", "replace")),
        st.builds(str.encode, st.sampled_from(PARTS), st.sampled_from(CODECS), st.just("replace")),
        st.sampled_from(ESCAPES),
        st.binary(max_size=4),
    )
    return st.lists(piece, max_size=8).map(lambda pieces: b"".join(pieces)[:LENGTH])


def built_name(path: Path) -> str:
    made = results.build(context(kinds=[ResultKind.SR]), [source(path)], PipelineResult())
    assert made[0].data is not None
    with quiet_pydicom():
        return str(pydicom.dcmread(io.BytesIO(made[0].data)).PatientName)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(CHARSETS), names())
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
