"""What we accept: one table of storage classes, one of transfer syntaxes in the order of preference.

Names and UIDs are pydicom's, which are generated from PS3.6 Annex A; ``docs/conformance.md`` is generated
from here. Everything is kept bit for bit, so a syntax may stand here that we cannot decode.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pydicom.uid import UID_dictionary
from pynetdicom import build_context
from pynetdicom.presentation import PresentationContext

from dicom_node.dicom import commitment


class ClassKind(StrEnum):
    """Why a storage class is accepted."""

    IMAGE = "image"  # what we analyse
    NON_SOURCE = "non_source"  # sent along with images, or a result of ours that comes back: stored only


class SyntaxKind(StrEnum):
    """Groups of transfer syntaxes, best first."""

    EXPLICIT = "Explicit VR Little Endian"
    LOSSLESS = "lossless compressed"
    IMPLICIT = "Implicit VR Little Endian"
    DEFLATED = "deflated"
    BIG_ENDIAN = "big endian"
    LOSSLESS_KEPT = "lossless compressed, kept but not decoded here"
    LOSSY = "lossy"
    LOSSY_KEPT = "lossy, kept but not decoded here"


@dataclass(frozen=True, slots=True)
class StorageClass:
    """One SOP class of the Storage service (PS3.4 B.5)."""

    uid: str
    name: str
    kind: ClassKind


@dataclass(frozen=True, slots=True)
class TransferSyntax:
    """One transfer syntax (PS3.5 Annex A, Section 10)."""

    uid: str
    name: str
    kind: SyntaxKind


_BY_KEYWORD = {entry[4]: uid for uid, entry in UID_dictionary.items() if entry[4]}


def _name(uid: str) -> str:
    entry = UID_dictionary[uid]
    return f"{entry[0]} (Retired)" if entry[3] else entry[0]


def _classes(kind: ClassKind, keywords: str) -> Iterable[StorageClass]:
    return (StorageClass(uid, _name(uid), kind) for uid in map(_BY_KEYWORD.__getitem__, keywords.split()))


def _syntaxes(kind: SyntaxKind, keywords: str) -> Iterable[TransferSyntax]:
    return (TransferSyntax(uid, _name(uid), kind) for uid in map(_BY_KEYWORD.__getitem__, keywords.split()))


STORAGE_CLASSES: tuple[StorageClass, ...] = (
    *_classes(
        ClassKind.IMAGE,
        """
        UltrasoundImageStorage UltrasoundMultiFrameImageStorage
        UltrasoundImageStorageRetired UltrasoundMultiFrameImageStorageRetired
        ComputedRadiographyImageStorage
        DigitalXRayImageStorageForPresentation DigitalXRayImageStorageForProcessing
        SecondaryCaptureImageStorage MultiFrameSingleBitSecondaryCaptureImageStorage
        MultiFrameGrayscaleByteSecondaryCaptureImageStorage
        MultiFrameGrayscaleWordSecondaryCaptureImageStorage
        MultiFrameTrueColorSecondaryCaptureImageStorage
        """,
    ),
    *_classes(
        ClassKind.NON_SOURCE,
        """
        BasicTextSRStorage EnhancedSRStorage ComprehensiveSRStorage Comprehensive3DSRStorage
        ExtensibleSRStorage ProcedureLogStorage MammographyCADSRStorage ChestCADSRStorage ColonCADSRStorage
        XRayRadiationDoseSRStorage EnhancedXRayRadiationDoseSRStorage PatientRadiationDoseSRStorage
        AcquisitionContextSRStorage SimplifiedAdultEchoSRStorage KeyObjectSelectionDocumentStorage
        GrayscaleSoftcopyPresentationStateStorage ColorSoftcopyPresentationStateStorage
        PseudoColorSoftcopyPresentationStateStorage BlendingSoftcopyPresentationStateStorage
        AdvancedBlendingPresentationStateStorage VariableModalityLUTSoftcopyPresentationStateStorage
        SegmentationStorage
        EncapsulatedPDFStorage EncapsulatedCDAStorage
        """,
    ),
)
"""Accepted without configuration; ``listener.further_storage_classes`` adds to them."""

TRANSFER_SYNTAXES: tuple[TransferSyntax, ...] = (
    *_syntaxes(SyntaxKind.EXPLICIT, "ExplicitVRLittleEndian"),
    *_syntaxes(
        SyntaxKind.LOSSLESS,
        "JPEGLosslessSV1 JPEGLSLossless JPEG2000Lossless HTJ2KLossless HTJ2KLosslessRPCL RLELossless "
        "JPEGLossless",
    ),
    *_syntaxes(SyntaxKind.IMPLICIT, "ImplicitVRLittleEndian"),
    *_syntaxes(SyntaxKind.DEFLATED, "DeflatedExplicitVRLittleEndian"),
    *_syntaxes(SyntaxKind.BIG_ENDIAN, "ExplicitVRBigEndian"),
    # Behind what we can decode, before what has lost something already.
    *_syntaxes(
        SyntaxKind.LOSSLESS_KEPT,
        """
        EncapsulatedUncompressedExplicitVRLittleEndian DeflatedImageFrameCompression JPEGXLLossless
        JPEG2000MCLossless JPEGLosslessNonHierarchical15 JPEGLosslessHierarchical28
        JPEGLosslessHierarchical29
        """,
    ),
    *_syntaxes(SyntaxKind.LOSSY, "JPEG2000 HTJ2K JPEGLSNearLossless JPEGExtended12Bit JPEGBaseline8Bit"),
    *_syntaxes(
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

VERIFICATION = "1.2.840.10008.1.1"
_SHOWN = 64  # characters of a UID that a peer sent
_SYNTAXES_SHOWN = 3
_CLASS = re.compile(r"(?:[^:]* \()?([0-9]+(?:\.[0-9]+)+)\)?")  # as _named writes it


def accepted_classes(further: Iterable[str] = ()) -> tuple[str, ...]:
    """SOP Class UIDs of the Storage service that we accept, with those of the configuration."""
    return tuple(dict.fromkeys([*(one.uid for one in STORAGE_CLASSES), *further]))


def presentation_contexts(further: Iterable[str] = ()) -> list[PresentationContext]:
    """What the acceptor supports. pynetdicom takes the first of *our* syntaxes that the peer offers."""
    syntaxes = [one.uid for one in TRANSFER_SYNTAXES]
    uncompressed = (SyntaxKind.EXPLICIT, SyntaxKind.IMPLICIT, SyntaxKind.DEFLATED, SyntaxKind.BIG_ENDIAN)
    plain = [one.uid for one in TRANSFER_SYNTAXES if one.kind in uncompressed]
    return [
        build_context(VERIFICATION, plain),
        *(build_context(uid, syntaxes) for uid in accepted_classes(further)),
    ]


def commitment_context() -> PresentationContext:
    """For a peer that reports on storage commitment: the SCP on an association that it opens (PS3.4 J.3)."""
    plain = [one.uid for one in TRANSFER_SYNTAXES if one.kind in (SyntaxKind.EXPLICIT, SyntaxKind.IMPLICIT)]
    context = build_context(commitment.SOP_CLASS, plain)
    context.scu_role, context.scp_role = False, True
    return context


def refusals(
    proposed: Iterable[tuple[str, Sequence[str]]], supported: Iterable[PresentationContext]
) -> tuple[str, ...]:
    """The proposed contexts (abstract syntax, transfer syntaxes) that will be refused, in words, each once.

    "CT Image Storage (1.2.840.10008.5.1.4.1.1.2)" where we do not take the class; behind a colon the
    transfer syntaxes, where we take none of them.
    """
    ours = {str(one.abstract_syntax): {str(uid) for uid in one.transfer_syntax} for one in supported}
    found: dict[str, None] = {}
    for abstract, syntaxes in proposed:
        if abstract not in ours:
            found[_named(abstract)] = None
        elif ours[abstract].isdisjoint(syntaxes):
            shown = ", ".join(_named(uid) for uid in syntaxes[:_SYNTAXES_SHOWN])
            more = f" and {len(syntaxes) - _SYNTAXES_SHOWN} more" if len(syntaxes) > _SYNTAXES_SHOWN else ""
            found[f"{_named(abstract)}: {shown}{more}"] = None
    return tuple(found)


def refused_class(refusal: str) -> str:
    """The SOP class of one of ``refusals``, "" where what is shown is no UID or the class itself is taken."""
    found = _CLASS.fullmatch(refusal)
    return found[1] if found else ""


def _named(uid: str) -> str:
    """A UID from outside with its name, if it has one."""
    return f"{_name(uid)} ({shown_uid(uid)})" if uid in UID_dictionary else shown_uid(uid)


def shown_uid(uid: str) -> str:
    """What events may show of a UID from outside: digits and dots, so that a name put there is not shown."""
    return re.sub(r"[^0-9.]", "?", uid[:_SHOWN])
