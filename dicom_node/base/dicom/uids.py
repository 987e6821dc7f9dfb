"""UIDs: of results, of the node itself, of the storage SOP classes and transfer syntaxes that it knows.

The UID of a result is derived from the result's parts: the same parts always give the same UID. By product
and installation the node recognizes its own results: one that a PACS sends back starts no job.

The storage SOP classes have a role each (PS3.4 B.5). Negotiation, inspection and the conformance statement
share the table of transfer syntaxes, with names and UIDs of PS3.6 Annex A. Objects are stored bit for bit, so
the table may have a syntax that the node cannot decode. pydicom alone cannot tell what a transfer syntax is:
its dictionary lacks the newest, and pynetdicom adds them only where it is imported.
"""

import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from pydicom.dataset import Dataset
from pydicom.uid import UID_dictionary

from dicom_node import __version__
from dicom_node.base.lifecycle import ObjectRole

# UUIDv5 of this name space; changing it would make every old result foreign.
_NAMESPACE = uuid.UUID("6c7f2f5e-6f0b-5d1c-9b62-0f6a4b5c9e10")


def derived_uid(*parts: str) -> str:
    """Return a UID under 2.25 (PS3.5 B.2) that depends only on ``parts``: the same texts always give the same
    UID.
    """
    name = "\x1f".join(f"{len(part)}:{part}" for part in parts)
    return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"


IMPLEMENTATION_CLASS_UID = derived_uid("implementation class")
"""(0002,0012) and PS3.7 D.3.3.2: this program, on associations and in the files that it writes."""
IMPLEMENTATION_VERSION_NAME = f"DICOMAINODE_{'_'.join(__version__.split('.')[:2])}"[:16]
"""(0002,0013) and PS3.7 D.3.3.2.3."""

MANUFACTURER: Final = "DICOM AI Node project"
MODEL_NAME: Final = "DICOM AI Node"


@dataclass(frozen=True, slots=True)
class Installation:
    """The identity of this site's equipment in its results: Device UID (0018,1002) and Device Serial Number
    (0018,1000).

    All machines of a site share one installation: a result is the same whichever machine builds it.
    """

    device_uid: str
    serial_number: str

    @classmethod
    def from_drawn(cls, drawn: str) -> Self:
        """Return the installation for ``drawn``, the random text that was generated when the database was
        created.
        """
        return cls(derived_uid("installation", drawn), drawn[:16])


NO_INSTALLATION: Final = Installation(derived_uid("dicom-ai-node", "device"), "none")
"""In results without identity, which do not say at which site they were made. Until builder version 3 all
results had this Device UID."""


def is_own_result(dataset: Dataset) -> bool:
    """Return whether this product made the object: an item of Contributing Equipment (0018,A001) names it as
    manufacturer and model.

    This recognizes results of every version and installation. Image Type, series numbers and descriptions are
    not used: PACSs change them. Never raises on a faulty header.
    """
    items = dataset.get("ContributingEquipmentSequence") or []
    if isinstance(items, (str, bytes)):
        return False
    ours = {"Manufacturer": MANUFACTURER, "ManufacturerModelName": MODEL_NAME}
    return any(
        isinstance(item, Dataset)
        and all(str(item.get(word) or "").strip("\0 ") == name for word, name in ours.items())
        for item in items
    )


_STORAGE = "1.2.840.10008.5.1.4.1.1."

# Ultrasound and Ultrasound Multi-frame, each with its retired predecessor.
ULTRASOUND = frozenset(_STORAGE + end for end in ("6.1", "3.1", "6", "3"))
# Computed Radiography; Digital X-Ray For Presentation and For Processing.
X_RAY = frozenset(_STORAGE + end for end in ("1", "1.1", "1.1.1"))
SOURCES = ULTRASOUND | X_RAY
SECONDARY_CAPTURES = frozenset(_STORAGE + suffix for suffix in ("7", "7.1", "7.2", "7.3", "7.4"))

# Images by their SOP class name, but made by a reader or a program: they never start a job.
_MADE = ("11.", "30", "66", "67", "68", "77.1.5.3", "88.", "104.", "481.", "9.")


def is_image(sop_class_uid: str) -> bool:
    """Whether objects of this storage SOP class are images of a modality: no presentation state,
    segmentation, registration, document, radiotherapy object or waveform.
    """
    return not sop_class_uid.removeprefix(_STORAGE).startswith(_MADE)


def role_of(
    sop_class_uid: str,
    further_sources: frozenset[str],
    *,
    takes_secondary_captures: bool,
    goes_to_program: bool = False,
) -> ObjectRole:
    """Return the role that a received object of this SOP class has in the node, unless the node built it.

    ``further_sources``: classes that the site added to those analysed. ``takes_secondary_captures``: whether
    a rule accepts secondary captures of this sender as images (a frame grabber). ``goes_to_program``: whether
    a rule gives such objects to a program, which reads them itself.
    """
    if sop_class_uid in SOURCES:
        return ObjectRole.SOURCE
    if sop_class_uid in SECONDARY_CAPTURES:
        return ObjectRole.SOURCE if takes_secondary_captures else ObjectRole.NON_SOURCE
    is_further = sop_class_uid in further_sources and is_image(sop_class_uid)
    return ObjectRole.SOURCE if goes_to_program or is_further else ObjectRole.NON_SOURCE


class SyntaxKind(StrEnum):
    """Groups of transfer syntaxes, in order of preference."""

    EXPLICIT = "Explicit VR Little Endian"
    LOSSLESS = "lossless compressed"
    IMPLICIT = "Implicit VR Little Endian"
    DEFLATED = "deflated"
    BIG_ENDIAN = "big endian"
    LOSSLESS_KEPT = "lossless compressed, kept but not decoded here"
    LOSSY = "lossy"
    LOSSY_KEPT = "lossy, kept but not decoded here"


UNCOMPRESSED = (SyntaxKind.EXPLICIT, SyntaxKind.IMPLICIT, SyntaxKind.DEFLATED, SyntaxKind.BIG_ENDIAN)
"""Their Pixel Data is native; that of all others is in fragments (PS3.5 A.4)."""


@dataclass(frozen=True, slots=True)
class TransferSyntax:
    """One transfer syntax (PS3.5 Annex A, Section 10)."""

    uid: str
    name: str
    kind: SyntaxKind

    @property
    def is_implicit_vr(self) -> bool:
        """Whether data sets in it are in Implicit VR."""
        return self.kind is SyntaxKind.IMPLICIT

    @property
    def is_little_endian(self) -> bool:
        """Whether data sets in it are in little endian."""
        return self.kind is not SyntaxKind.BIG_ENDIAN

    @property
    def is_deflated(self) -> bool:
        """Whether the whole data set is deflated; Deflated Image Frame Compression deflates frames only."""
        return self.kind is SyntaxKind.DEFLATED

    @property
    def is_encapsulated(self) -> bool:
        """Whether Pixel Data in it is compressed, in fragments."""
        return self.kind not in UNCOMPRESSED


# Newer than pydicom's dictionary (PS3.6 table A-1).
_NEWER = {
    "DeflatedImageFrameCompression": ("1.2.840.10008.1.2.8.1", "Deflated Image Frame Compression"),
    "JPEGXLLossless": ("1.2.840.10008.1.2.4.110", "JPEG XL Lossless"),
    "JPEGXLJPEGRecompression": ("1.2.840.10008.1.2.4.111", "JPEG XL JPEG Recompression"),
    "JPEGXL": ("1.2.840.10008.1.2.4.112", "JPEG XL"),
}


def uid_name(uid: str) -> str:
    """Return the name of a UID that the standard defines."""
    entry = UID_dictionary[uid]
    return f"{entry[0]} (Retired)" if entry[3] else entry[0]


_BY_KEYWORD = {
    entry[4]: (uid, uid_name(uid)) for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"
} | _NEWER
_KEYWORDS = {
    SyntaxKind.EXPLICIT: "ExplicitVRLittleEndian",
    SyntaxKind.LOSSLESS: """
        JPEGLosslessSV1 JPEGLSLossless JPEG2000Lossless HTJ2KLossless HTJ2KLosslessRPCL RLELossless
        JPEGLossless JPEGXLLossless
    """,
    SyntaxKind.IMPLICIT: "ImplicitVRLittleEndian",
    SyntaxKind.DEFLATED: "DeflatedExplicitVRLittleEndian",
    SyntaxKind.BIG_ENDIAN: "ExplicitVRBigEndian",
    # Behind what we can decode, before what has lost something already.
    SyntaxKind.LOSSLESS_KEPT: """
        EncapsulatedUncompressedExplicitVRLittleEndian DeflatedImageFrameCompression
        JPEG2000MCLossless JPEGLosslessNonHierarchical15 JPEGLosslessHierarchical28
        JPEGLosslessHierarchical29
    """,
    SyntaxKind.LOSSY: """
        JPEG2000 HTJ2K JPEGLSNearLossless JPEGExtended12Bit JPEGBaseline8Bit JPEGXL JPEGXLJPEGRecompression
    """,
    SyntaxKind.LOSSY_KEPT: """
        JPEG2000MC
        JPEGExtended35 JPEGSpectralSelectionNonHierarchical68 JPEGSpectralSelectionNonHierarchical79
        JPEGFullProgressionNonHierarchical1012 JPEGFullProgressionNonHierarchical1113
        JPEGExtendedHierarchical1618 JPEGExtendedHierarchical1719
        JPEGSpectralSelectionHierarchical2022 JPEGSpectralSelectionHierarchical2123
        JPEGFullProgressionHierarchical2426 JPEGFullProgressionHierarchical2527
        HEVCMP51 HEVCM10P51
        MPEG4HP41 MPEG4HP41F MPEG4HP41BD MPEG4HP41BDF MPEG4HP422D MPEG4HP422DF
        MPEG4HP423D MPEG4HP423DF MPEG4HP42STEREO MPEG4HP42STEREOF
        MPEG2MPML MPEG2MPMLF MPEG2MPHL MPEG2MPHLF
    """,
}
TRANSFER_SYNTAXES = tuple(
    TransferSyntax(*_BY_KEYWORD[keyword], kind)
    for kind, keywords in _KEYWORDS.items()
    for keyword in keywords.split()
)
"""Best first. Not here: syntaxes whose pixel data lies elsewhere (JPIP), real-time video (SMPTE ST 2110),
and what PS3.5 never gave to the network (XML, MIME, Papyrus)."""

_BY_UID = {one.uid: one for one in TRANSFER_SYNTAXES}


def transfer_syntax(uid: str) -> TransferSyntax | None:
    """Return the transfer syntax with this UID; None if the node does not accept it."""
    return _BY_UID.get(uid)
