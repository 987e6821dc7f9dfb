"""The table of transfer syntaxes that negotiation, inspection and the conformance statement share.

Names and UIDs are from PS3.6 Annex A; ``docs/conformance.md`` has them from here. Objects are stored bit
for bit, so the table may have a syntax that the node cannot decode. pydicom alone cannot tell what a transfer
syntax is: its dictionary lacks the newest, and pynetdicom adds them only where it is imported.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from pydicom.uid import UID_dictionary


class SyntaxKind(StrEnum):
    """Groups of transfer syntaxes, the preferred first."""

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
        return self.kind is SyntaxKind.IMPLICIT

    @property
    def is_little_endian(self) -> bool:
        return self.kind is not SyntaxKind.BIG_ENDIAN

    @property
    def is_deflated(self) -> bool:
        """Whether the whole data set is deflated; Deflated Image Frame Compression deflates frames only."""
        return self.kind is SyntaxKind.DEFLATED

    @property
    def is_encapsulated(self) -> bool:
        return self.kind not in UNCOMPRESSED


# Newer than pydicom's dictionary (PS3.6 table A-1).
_NEWER = {
    "DeflatedImageFrameCompression": ("1.2.840.10008.1.2.8.1", "Deflated Image Frame Compression"),
    "JPEGXLLossless": ("1.2.840.10008.1.2.4.110", "JPEG XL Lossless"),
    "JPEGXLJPEGRecompression": ("1.2.840.10008.1.2.4.111", "JPEG XL JPEG Recompression"),
    "JPEGXL": ("1.2.840.10008.1.2.4.112", "JPEG XL"),
}
_BY_KEYWORD = {
    entry[4]: (uid, f"{entry[0]} (Retired)" if entry[3] else entry[0])
    for uid, entry in UID_dictionary.items()
    if entry[1] == "Transfer Syntax"
} | _NEWER


def _of(kind: SyntaxKind, keywords: str) -> Iterable[TransferSyntax]:
    return (TransferSyntax(*_BY_KEYWORD[keyword], kind) for keyword in keywords.split())


TRANSFER_SYNTAXES: tuple[TransferSyntax, ...] = (
    *_of(SyntaxKind.EXPLICIT, "ExplicitVRLittleEndian"),
    *_of(
        SyntaxKind.LOSSLESS,
        "JPEGLosslessSV1 JPEGLSLossless JPEG2000Lossless HTJ2KLossless HTJ2KLosslessRPCL RLELossless "
        "JPEGLossless",
    ),
    *_of(SyntaxKind.IMPLICIT, "ImplicitVRLittleEndian"),
    *_of(SyntaxKind.DEFLATED, "DeflatedExplicitVRLittleEndian"),
    *_of(SyntaxKind.BIG_ENDIAN, "ExplicitVRBigEndian"),
    # Behind what we can decode, before what has lost something already.
    *_of(
        SyntaxKind.LOSSLESS_KEPT,
        """
        EncapsulatedUncompressedExplicitVRLittleEndian DeflatedImageFrameCompression JPEGXLLossless
        JPEG2000MCLossless JPEGLosslessNonHierarchical15 JPEGLosslessHierarchical28
        JPEGLosslessHierarchical29
        """,
    ),
    *_of(SyntaxKind.LOSSY, "JPEG2000 HTJ2K JPEGLSNearLossless JPEGExtended12Bit JPEGBaseline8Bit"),
    *_of(
        SyntaxKind.LOSSY_KEPT,
        """
        JPEGXLJPEGRecompression JPEGXL JPEG2000MC
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
    ),
)
"""Best first. Not here: syntaxes whose pixel data lies elsewhere (JPIP), real-time video (SMPTE ST 2110),
and what PS3.5 never gave to the network (XML, MIME, Papyrus)."""

_BY_UID = {one.uid: one for one in TRANSFER_SYNTAXES}


def transfer_syntax(uid: str) -> TransferSyntax | None:
    """The transfer syntax with this UID; None if the node does not accept it."""
    return _BY_UID.get(uid)
