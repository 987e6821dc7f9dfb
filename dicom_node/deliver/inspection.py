"""Inspection of an object before it is sent: is it the object that was built, and may this peer get it?

Whatever tables or settings say by then, an object that names a patient is not sent to a de-identified
destination.
"""

from contextlib import suppress
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.files import sha256_of
from dicom_node.base.lifecycle import is_deidentified, retained_by
from dicom_node.deliver import scu

_NAMES_THE_PATIENT = "it names the patient, and this peer gets de-identified objects only"
_KEEPS_MORE = "it keeps more than this peer may know by now: dicom-node studies rerun makes new objects"
_READ = [
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientIdentityRemoved",
    "DeidentificationMethodCodeSequence",
]


def study_of(path: Path) -> str:
    """The Study Instance UID in the header of a DICOM file; "" if it is gone or is none. Raises OSError."""
    with suppress(FileNotFoundError):
        if header := _header(path):
            return str(header.get("StudyInstanceUID") or "")
    return ""


def fault(item: scu.Outgoing, peer: PeerSettings) -> str:
    """The reason why this object must not be sent to this peer; "" if it may be sent. Raises OSError if the
    disk does not read its file, which says nothing of the object.

    The data set of a received object is not read: it is forwarded unchanged.
    """
    if item.is_original:
        if peer.deidentify:
            return _NAMES_THE_PATIENT
        is_whole = item.path.is_file() and item.path.stat().st_size == item.bytes
        return "" if is_whole else "the received file is missing or damaged"
    if item.pseudonym_domain != (peer.pseudonym_domain or ""):
        return "it bears the pseudonyms of another domain: dicom-node studies rerun makes new objects"
    try:  # only the bytes that were built may leave
        header = _header(item.path) if sha256_of(item.path) == item.sha256 else None
    except FileNotFoundError:
        header = None
    if header is None:
        return "the result file of the node is missing or damaged"
    if is_deidentified(header) is not peer.deidentify:
        return _NAMES_THE_PATIENT if peer.deidentify else "it is de-identified: this peer has no such study"
    keeps_more = peer.deidentify and not retained_by(header) <= frozenset(peer.retain)
    return _KEEPS_MORE if keeps_more else ""


def _header(path: Path) -> Dataset | None:
    """The attributes of a file that are checked before it is sent; None if it is no DICOM file. Raises
    OSError.
    """
    try:
        return dcmread(path, specific_tags=_READ, stop_before_pixels=True)
    except InvalidDicomError:
        return None
