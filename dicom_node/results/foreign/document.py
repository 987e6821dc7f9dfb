"""PDF of a program (PS3.3 A.45.1, C.24): a document that only shows pages, and whose text was read.

The file is searched for what acts when it is opened or clicked (ISO 32000-1, 12.6): scripts, actions, links,
attachments, media, encryption. Names are compared with their escapes undone (#4A is J), outside of streams
and in all streams of objects; one of these that cannot be inflated refuses the document.
"""

import re
import zlib
from collections.abc import Iterator
from typing import Final

from pydicom.dataset import Dataset

from ai_pipeline.images.numbers import whole
from dicom_node.results.dataset import sequence, text_of
from dicom_node.results.foreign.candidate import Candidate
from dicom_node.results.foreign.names import text_remarks
from dicom_node.results.foreign.verdict import Remark, held, refused, repaired

_ACTS: Final = {
    "JavaScript": "a script", "JS": "a script", "XFA": "a form with scripts", "OpenAction": "an action",
    "AA": "an action", "Launch": "an action", "SubmitForm": "an action", "ImportData": "an action",
    "GoToR": "a link to another file", "GoToE": "a link to another file", "URI": "a link to the web",
    "EmbeddedFile": "an attached file", "EmbeddedFiles": "an attached file", "RichMedia": "media",
    "Movie": "media", "Sound": "media", "Rendition": "media", "Encrypt": "encryption",
}  # fmt: skip
"""What a name (ISO 32000-1, 7.3.5) brings into a document."""
_NAME: Final = re.compile(rb"/([^\s/\[\]<>(){}%]+)")
_ESCAPE: Final = re.compile(rb"#([0-9A-Fa-f]{2})")
_STREAM: Final = re.compile(rb"stream\r?\n(.*?)endstream", re.DOTALL)
_PAGE: Final = re.compile(rb"/Type\s*/Page(?![A-Za-z])")
_MOST_INFLATED: Final = 2**26
"""Bytes of all streams of objects, inflated."""


def check_document(candidate: Candidate) -> Iterator[Remark]:
    """Yield what is wrong with the document and its attributes; read its text for other patients' names."""
    dataset = candidate.dataset
    if text_of(dataset, "MIMETypeOfEncapsulatedDocument") != "application/pdf":
        yield refused("MIME Type of Encapsulated Document is not application/pdf")
    data = bytes(dataset.get("EncapsulatedDocument") or b"")
    length = whole(dataset.get("EncapsulatedDocumentLength"))
    if length is None:
        length = dataset.EncapsulatedDocumentLength = len(data.rstrip(b"\0"))
        yield repaired("the length of the document was stated")
    if len(data) != length + length % 2:
        yield refused("the document has not the length that it states")
    document = data[:length]
    if not document.startswith(b"%PDF-") or b"%%EOF" not in document[-1024:]:
        yield refused("the document is no whole PDF")
        return
    yield from _content_remarks(document, candidate)


def repair_document(candidate: Candidate) -> Iterator[Remark]:
    """Set what every encapsulated document says (PS3.3 C.24.2), and the images that it was made from."""
    dataset = candidate.dataset
    if text_of(dataset, "VerificationFlag") == "VERIFIED":
        yield refused("it says that a person has verified it (Verification Flag VERIFIED)")
    for keyword, value in (
        ("ConversionType", "WSD"), ("BurnedInAnnotation", "YES"), ("VerificationFlag", "UNVERIFIED"),
    ):  # fmt: skip
        if text_of(dataset, keyword) != value:
            setattr(dataset, keyword, value)
            yield repaired(f"{keyword} was set to {value}")
    if not text_of(dataset, "DocumentTitle"):
        dataset.DocumentTitle = f"AI report of {candidate.given.context.pipeline}"
        yield repaired("the document was given a title")
    dataset.setdefault("ConceptNameCodeSequence", [])
    if not sequence(dataset, "SourceInstanceSequence"):
        dataset.SourceInstanceSequence = [_reference(*pair) for pair in _sources(candidate)]
        yield repaired("the images that the program got were named as its sources")


def acting_names(document: bytes) -> set[str]:
    """What a PDF has beside pages, in words. Raises ValueError if a stream of objects cannot be read."""
    outside = _STREAM.sub(b" ", document)
    return {what for text in (outside, *_object_streams(document)) for what in _found(text)}


def _content_remarks(document: bytes, candidate: Candidate) -> Iterator[Remark]:
    """Yield what is wrong with the content of a PDF."""
    try:
        acts = acting_names(document)
        texts = [_STREAM.sub(b" ", document), *_object_streams(document)]
    except ValueError:
        yield refused("the document has objects that cannot be read")
        return
    for what in sorted(acts):
        yield refused(f"the document has {what}")
    pages = sum(len(_PAGE.findall(text)) for text in texts)
    if not 0 < pages <= candidate.limits.pages:
        yield refused(f"the document has no page, or more than {candidate.limits.pages}")
    read_document = candidate.readers.read_document
    if read_document is None:
        yield held("its text could not be searched for names: look at it before it goes")
        return
    try:
        yield from text_remarks(read_document(document), candidate)
    except ValueError:
        yield refused("the text of the document cannot be read")


def _found(text: bytes) -> Iterator[str]:
    """Yield what the names in some objects bring in."""
    for name in _NAME.findall(text):
        plain = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), name)
        if what := _ACTS.get(plain.decode("latin-1")):
            yield what


def _object_streams(document: bytes) -> Iterator[bytes]:
    """Yield the inflated streams of objects (ISO 32000-1, 7.5.7). Raises ValueError."""
    left = _MOST_INFLATED
    for found in _STREAM.finditer(document):
        described = document[max(0, document.rfind(b"obj", 0, found.start())) : found.start()]
        names = [_ESCAPE.sub(lambda one: bytes([int(one[1], 16)]), name) for name in _NAME.findall(described)]
        if b"ObjStm" not in names:
            continue
        if b"FlateDecode" not in names or b"DecodeParms" in names:
            raise ValueError("a stream of objects with another filter")
        inflate = zlib.decompressobj()
        try:
            inflated = inflate.decompress(found[1], left)
        except zlib.error:
            raise ValueError("a damaged stream of objects") from None
        if not inflate.eof:
            raise ValueError("a stream of objects that does not end")
        left -= len(inflated)
        yield inflated


def _sources(candidate: Candidate) -> Iterator[tuple[str, str]]:
    """SOP class and instance of the inputs of this study."""
    for one in candidate.given.given.values():
        yield one.sop_class_uid, one.uid


def _reference(sop_class_uid: str, uid: str) -> Dataset:
    """An item that refers to an instance."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, uid
    return item
