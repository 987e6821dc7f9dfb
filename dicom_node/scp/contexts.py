"""The accepted storage classes, each in every transfer syntax (``dicom.transfer_syntaxes``).

Names and UIDs are pydicom's, which are generated from PS3.6 Annex A; the tables of
``docs/conformance.md`` are generated from here.
"""

import re
from collections.abc import Iterable, Mapping

from pydicom.uid import UID_dictionary

from dicom_node.dicom.transfer_syntaxes import TRANSFER_SYNTAXES, SyntaxKind
from dicom_node.scp.connection.pdus import Contexts

_KEYWORDS = """
    UltrasoundImageStorage UltrasoundMultiFrameImageStorage
    UltrasoundImageStorageRetired UltrasoundMultiFrameImageStorageRetired
    ComputedRadiographyImageStorage
    DigitalXRayImageStorageForPresentation DigitalXRayImageStorageForProcessing
    SecondaryCaptureImageStorage MultiFrameSingleBitSecondaryCaptureImageStorage
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    MultiFrameTrueColorSecondaryCaptureImageStorage
    BasicTextSRStorage EnhancedSRStorage ComprehensiveSRStorage Comprehensive3DSRStorage
    ExtensibleSRStorage ProcedureLogStorage MammographyCADSRStorage ChestCADSRStorage ColonCADSRStorage
    XRayRadiationDoseSRStorage EnhancedXRayRadiationDoseSRStorage PatientRadiationDoseSRStorage
    AcquisitionContextSRStorage SimplifiedAdultEchoSRStorage KeyObjectSelectionDocumentStorage
    GrayscaleSoftcopyPresentationStateStorage ColorSoftcopyPresentationStateStorage
    PseudoColorSoftcopyPresentationStateStorage BlendingSoftcopyPresentationStateStorage
    AdvancedBlendingPresentationStateStorage VariableModalityLUTSoftcopyPresentationStateStorage
    SegmentationStorage
    EncapsulatedPDFStorage EncapsulatedCDAStorage
    EnhancedUSVolumeStorage RawDataStorage
    DigitalMammographyXRayImageStorageForPresentation DigitalMammographyXRayImageStorageForProcessing
    XRayAngiographicImageStorage XRayRadiofluoroscopicImageStorage
    TwelveLeadECGWaveformStorage GeneralECGWaveformStorage AmbulatoryECGWaveformStorage
"""  # those of sources first (``dicom.sop_classes``)


def _name(uid: str) -> str:
    entry = UID_dictionary[uid]
    return f"{entry[0]} (Retired)" if entry[3] else entry[0]


_BY_KEYWORD = {entry[4]: uid for uid, entry in UID_dictionary.items() if entry[4]}
STORAGE_CLASSES: Mapping[str, str] = {
    **{_BY_KEYWORD[keyword]: _name(_BY_KEYWORD[keyword]) for keyword in _KEYWORDS.split()},
    # Private classes of ultrasound systems, as public dictionaries of UIDs name them.
    "1.2.840.113543.6.6.1.3.10001": "Private Philips HP Live 3D 01 Storage",
    "1.2.840.113543.6.6.1.3.10002": "Private Philips HP Live 3D 02 Storage",
    "1.3.46.670589.2.5.1.1": "Private Philips 3D Presentation State Storage",
    "1.2.276.0.48.5.1.4.1.1.7": "Private TomTec Annotation Storage",
    "1.2.392.200036.9116.7.8.1.1.1": "Private Toshiba US Image Storage",
}
"""Names of SOP classes of the Storage service (PS3.4 B.5) by UID.

Accepted without configuration, so that nothing that an ultrasound cart sends beside its images fails its
job; ``listener.further_storage_classes`` adds to them."""

VERIFICATION = "1.2.840.10008.1.1"
_SYNTAXES_SHOWN = 3
_ACCEPTED, _NO_SUCH_CLASS, _NO_SUCH_SYNTAX = 0, 3, 4
_NOT_SIGNIFICANT = "1.2.840.10008.1.2"  # the transfer syntax of a refused context (PS3.8 9.3.3.2)
LITTLE_ENDIAN = tuple(
    one.uid for one in TRANSFER_SYNTAXES if one.kind in (SyntaxKind.EXPLICIT, SyntaxKind.IMPLICIT)
)
"""Transfer syntaxes of commands that are no C-STORE."""
_SYNTAXES = tuple(one.uid for one in TRANSFER_SYNTAXES)
_CLASS = re.compile(r"(?:[^:]* \()?([0-9]+(?:\.[0-9]+)+)\)?")  # as _named writes it


def accepted_classes(further: Iterable[str] = ()) -> tuple[str, ...]:
    """SOP Class UIDs of the Storage service that the node accepts, including those in the configuration."""
    return tuple(dict.fromkeys([*STORAGE_CLASSES, *further]))


def supported_syntaxes(further: Iterable[str] = ()) -> dict[str, tuple[str, ...]]:
    """Transfer syntaxes that the acceptor takes of everybody, the best first, by abstract syntax."""
    decoded = tuple(one.uid for one in TRANSFER_SYNTAXES if not one.is_encapsulated)
    return {VERIFICATION: decoded, **dict.fromkeys(accepted_classes(further), _SYNTAXES)}


def negotiate(
    proposed: Contexts, supported: Mapping[str, tuple[str, ...]]
) -> tuple[dict[int, tuple[int, str]], tuple[str, ...]]:
    """Result (PS3.8 Table 9-18) and transfer syntax of each context; the refused ones as texts.

    Of the transfer syntaxes the first of ours is taken. A text is the SOP class, such as "CT Image Storage
    (1.2.840.10008.5.1.4.1.1.2)". If the node accepts the class, but none of the proposed transfer syntaxes, a
    colon and these transfer syntaxes follow.
    """
    results, refused = dict[int, tuple[int, str]](), dict[str, None]()
    for context_id, (abstract, syntaxes) in proposed.items():
        ours = supported.get(abstract)
        best = next((one for one in ours or () if one in syntaxes), "")
        if best:
            results[context_id] = _ACCEPTED, best
        elif ours is None:
            results[context_id] = _NO_SUCH_CLASS, _NOT_SIGNIFICANT
            refused[_named(abstract)] = None
        else:
            results[context_id] = _NO_SUCH_SYNTAX, _NOT_SIGNIFICANT
            shown = ", ".join(_named(uid) for uid in syntaxes[:_SYNTAXES_SHOWN])
            more = f" and {len(syntaxes) - _SYNTAXES_SHOWN} more" if len(syntaxes) > _SYNTAXES_SHOWN else ""
            refused[f"{_named(abstract)}: {shown}{more}"] = None
    return results, tuple(refused)


def refused_class(refusal: str) -> str:
    """The SOP class in one of these texts; "" if the text has no UID, or the class itself is accepted."""
    found = _CLASS.fullmatch(refusal)
    return found[1] if found else ""


def _named(uid: str) -> str:
    """A UID from outside with its name, if it has one."""
    return f"{_name(uid)} ({shown_uid(uid)})" if uid in UID_dictionary else shown_uid(uid)


def shown_uid(uid: str) -> str:
    """A UID from outside, reduced to digits and dots for events, so that a name in its place is not shown."""
    return re.sub(r"[^0-9.]", "?", uid[:64])
