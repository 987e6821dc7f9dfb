"""De-identified copies of the images of a job, on disk while they are sent to a vendor's AI server.

Each server has pseudonyms of its own: two cannot find out that they have the same patient.
"""

import shutil
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy.orm import Session

from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.base.files import Files
from dicom_node.base.sitekey import load_or_create
from dicom_node.base.store import intake
from dicom_node.base.store.tables import Instance, Job
from dicom_node.results.deidentified.copies import SentAs, deidentified_copy
from dicom_node.results.deidentified.pseudonyms import Pseudonyms

_FOLDER: Final = "copies"


def pseudonyms_for(settings: Settings, peer: str) -> Pseudonyms:
    """Return the pseudonyms by which a server knows patients and UIDs. Raises ConfigurationError."""
    return Pseudonyms(load_or_create(settings.node.data_dir), f"remote-{peer.encode().hex()}")


def sent_as(session: Session, settings: Settings, job: Job, peer: str) -> SentAs:
    """Return what the copies of a job's images say instead of the truth. Raises StoreAway, NotInSpool."""
    files = Files(settings)
    headers = [_header(files.here(session, one.path)) for one in images_of(session, job)]
    return SentAs.of(headers, pseudonyms_for(settings, peer))


def images_of(session: Session, job: Job) -> list[Instance]:
    """Return the images of a job that are here, in its order."""
    known = intake.instances(session, job.source_uids)
    return [one for uid in job.source_uids if (one := known.get(uid)) is not None and not one.purged]


def make_copy(source: Path, settings: Settings, peer: str, row_id: int) -> tuple[Path, Dataset]:
    """Write the copy of an image for a server; return its path and its header.

    Raises ResultRefused if the image cannot be copied without its identity, OSError.
    """
    with quiet_pydicom():
        image = dcmread(source)
    pseudonyms = pseudonyms_for(settings, peer)
    data = deidentified_copy(image, pseudonyms)
    folder = folder_of(settings, row_id)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{pseudonyms.uid(str(image.SOPInstanceUID))}.dcm"
    path.write_bytes(data)
    return path, _header(path)


def forget(settings: Settings, row_id: int) -> None:
    """Remove the copies for a row from disk: they are sent, or not needed any more."""
    shutil.rmtree(folder_of(settings, row_id), ignore_errors=True)


def folder_of(settings: Settings, row_id: int) -> Path:
    """Return the folder of the copies for a row."""
    return settings.node.data_dir / _FOLDER / str(row_id)


def _header(path: Path) -> Dataset:
    """Return the header of an image."""
    with quiet_pydicom():
        return dcmread(path, stop_before_pixels=True)
