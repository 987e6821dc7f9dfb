"""The test study: an invented patient with one known finding in each kind of result, sent to a peer.

A person looks at it in the viewer and enters what the viewer shows; the peer's ``results`` are set from that.
"""

from __future__ import annotations

import hashlib
import io
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from PIL import Image, ImageDraw
from pydantic import Field
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import SecondaryCaptureImageStorage

from ai_pipeline.contract import (
    Code,
    Decision,
    DerivedImage,
    Finding,
    Heatmap,
    ImageKind,
    ModelRef,
    Origin,
    PipelineResult,
    Region,
)
from ai_pipeline.images.decode import open_dicom
from dicom_node import __version__, results
from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.dicom.own_objects import NO_INSTALLATION
from dicom_node.errors import FaultyInput, NotAllowedNow
from dicom_node.model.kinds import AuditAction, ResultKind
from dicom_node.results import BuiltObject, ResultContext, SourceObject
from dicom_node.scu.destination import Outgoing, Presence, SendStatus
from dicom_node.services import audit, entered, uploads, writing
from dicom_node.services.audit import COMMAND_LINE, Person
from dicom_node.services.peers import place_for_test
from dicom_node.services.typed import ServiceRequest, ServiceResult
from dicom_node.services.uploads import Described
from dicom_node.store.transitions import utc_now

PATIENT_ID: Final = "AI-NODE-TEST"
PATIENT_NAME: Final = "TEST^AI node"
SHOWS: Final[Mapping[str, str]] = {
    "image": "a grey picture with a bright disc right of its middle and a bright bar at its upper edge",
    ResultKind.SR: "a report: Clinical finding present, score 0.75",
    ResultKind.SUMMARY: "a page of black: the test patient, the picture with the box, the result in words",
    ResultKind.PDF: "a document of white paper: the same page, with words that can be searched",
    ResultKind.GSPS: "a presentation state: a box around the bright disc of the picture",
    ResultKind.SC: "the picture once more, with the box and the words drawn into it",
    ResultKind.HEATMAP: "the picture in colours, brightest at the disc, with a colour bar",
    ResultKind.CLEANED: "the picture without the bar at its upper edge",
    ResultKind.SEG: "a segmentation: the bar at the upper edge of the picture is marked",
}
"""What is to be seen of each object."""
KINDS: Final = tuple(kind for kind in SHOWS if kind != "image")
_SIDE = 512
_DISC = (320, 200, 400, 280)  # left, top, right, bottom
_BAR = 24  # rows
_ARRIVED = (SendStatus.STORED, SendStatus.WARNED, SendStatus.VERIFY)


class TrialRow(ServiceResult):
    """One object of a test study: what a viewer should show, whether the peer took it, and whether a query
    finds it.
    """

    kind: str
    shows: str
    ok: bool
    status: str
    found: bool | None
    text: str


class ViewerShowed(ServiceRequest):
    """What a viewer showed."""

    shows: list[Literal["sr", "gsps", "sc", "summary", "pdf", "heatmap", "cleaned", "seg"]] = Field(
        min_length=1, max_length=8
    )


class PeerLine(ServiceResult):
    """The line to write into the configuration file of the peer, "" if the change was saved."""

    line: str


def send(settings: Settings, name: str, by: Person = COMMAND_LINE) -> list[TrialRow]:
    """Send the test study; returns a row for each object.

    A row has its kind, what a viewer should show, ``ok`` (accepted) and ``found`` (by a query at once).
    Raises UnknownPeer, TooManyAtOnce, NotAllowedNow (the peer gets no results, or none with a patient).
    """
    peer = settings.peer(name)
    if "receive" not in peer.may or peer.deidentify:
        raise NotAllowedNow(f"{name} gets no results that name a patient: there is nothing to try")
    with place_for_test(), tempfile.TemporaryDirectory(dir=settings.node.data_dir) as folder:
        objects = _objects(settings, Path(folder))
        rows = _sent(settings, peer, objects)
    with writing(settings) as session:
        failed = sorted(row.kind for row in rows if not row.ok)
        audit.note(session, by, AuditAction.PEER_TESTED, peers=[name], study="sent", failed=failed)
    return rows


def set_results(settings: Settings, name: str, kinds: Sequence[str], by: Person) -> str:
    """Send a peer only the kinds of result that its viewer shows.

    For a peer in a configuration file, returns the line to write there; otherwise saves it and returns "".
    Raises UnknownPeer, FaultyInput (nothing is shown; mistakes that ``check`` finds), ChangedMeanwhile.
    """
    settings.peer(name)
    chosen = [kind for kind in KINDS if kind in kinds]
    if not chosen:
        raise FaultyInput("tick the kinds that the viewer showed; a peer that shows none needs no results")
    try:
        row = entered.show_entry(settings, "peers", name)
    except NotAllowedNow:
        return entered.as_text("peers", {"results": chosen})
    entered.save(settings, "peers", {**row["content"], "results": chosen}, row["version"], by)
    return ""


def _sent(settings: Settings, peer: PeerSettings, objects: Sequence[tuple[str, Outgoing]]) -> list[TrialRow]:
    from dicom_node.scu import open_destination

    destination = open_destination(peer, settings)
    outgoing = [item for _, item in objects]
    try:
        reports = destination.send(outgoing)
        found = destination.confirm(outgoing) if peer.may_be_asked else [None] * len(outgoing)
    finally:
        destination.close()
    rows: list[TrialRow] = []
    for (kind, _), report, answer in zip(objects, reports, found, strict=True):
        shown = None if answer is None else answer.presence is Presence.FOUND
        texts = [report.text, answer.text if answer is not None and not shown else ""]
        rows.append(
            TrialRow(
                kind=kind,
                shows=SHOWS[kind],
                ok=report.status in _ARRIVED,
                status=report.code,
                found=shown,
                text="; ".join(filter(None, texts)),
            )
        )
    return rows


def _objects(settings: Settings, folder: Path) -> list[tuple[str, Outgoing]]:
    """The picture first: the others refer to it."""
    path = folder / "image.dcm"
    study, series = _write_picture(settings, path)
    image = open_dicom(path, settings.images.limits)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    source = SourceObject(image, path, digest, digest)
    context = ResultContext(
        pipeline="test",
        pipeline_version=__version__,
        rule="test",
        models=(_model(),),
        analysed_at=utc_now(),
        kinds=frozenset(
            ResultKind(kind) for kind in KINDS if kind != ResultKind.PDF or results.pdf_is_installed()
        ),
        installation=NO_INSTALLATION,
        station_name=settings.node.station_name,
        options={"heatmaps": True},
    )
    made = results.build(context, [source], _result(image.uid, image.stored(0)))
    first = Outgoing(SecondaryCaptureImageStorage, image.uid, study, series, path, digest)
    return [("image", first), *(_outgoing(item, study, folder) for item in made)]


def _outgoing(item: BuiltObject, study: str, folder: Path) -> tuple[str, Outgoing]:
    assert item.data is not None
    path = folder / f"{item.sop_instance_uid}.dcm"
    path.write_bytes(item.data)
    digest = hashlib.sha256(item.data).hexdigest()
    uids = (item.sop_class_uid, item.sop_instance_uid, study, item.series_instance_uid)
    return item.kind.value, Outgoing(*uids, path, digest)


def _write_picture(settings: Settings, path: Path) -> tuple[str, str]:
    """Write a Secondary Capture of an invented patient, new each time; returns its study and series UIDs."""
    fields = {
        "PatientID": PATIENT_ID,
        "PatientName": PATIENT_NAME,
        "PatientBirthDate": "1970-01-01",
        "PatientSex": "O",
        "StudyDescription": "Test of the viewer, no patient",
        "Modality": "OT",
    }
    about = Described.from_form(fields)
    assert about is not None
    built = uploads.secondary_capture(_picture(), about, secrets.token_hex(16), 1, settings.images.limits)
    dataset = read_dataset(io.BytesIO(built.data), is_implicit_VR=False, is_little_endian=True)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = built.transfer_syntax_uid
    dataset.save_as(path, enforce_file_format=True)
    return str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID)


def _picture() -> io.BytesIO:
    ramp = np.tile(np.linspace(40, 120, _SIDE).astype(np.uint8), (_SIDE, 1))
    picture = Image.fromarray(ramp)
    draw = ImageDraw.Draw(picture)
    draw.ellipse(_DISC, fill=220)
    draw.rectangle((0, 0, _SIDE, _BAR - 1), fill=250)
    draw.text((8, 6), "TEST OF THE VIEWER - NO PATIENT", fill=0)
    file = io.BytesIO()
    picture.save(file, "PNG")
    file.seek(0)
    return file


def _model() -> ModelRef:
    nothing = hashlib.sha256(b"").hexdigest()
    return ModelRef("test-of-the-viewer", __version__, nothing, nothing)


def _result(uid: str, samples: np.ndarray[Any, Any]) -> PipelineResult:
    left, top, right, bottom = _DISC
    rows, columns = np.mgrid[0:_SIDE, 0:_SIDE]
    distance = np.hypot(rows - (top + bottom) / 2, columns - (left + right) / 2)
    finding = Finding(
        label="Test finding",
        code=Code("404684003", "SCT", "Clinical finding"),
        probability=0.75,
        threshold=0.5,
        decision=Decision.PRESENT,
        source_uid=uid,
        model=_model(),
        regions=(Region("box", ((left, top), (right, bottom)), Origin.DETECTOR),),
        evidence=Heatmap(np.exp(-distance / 80).astype(np.float32), "test"),
    )
    without = samples.copy()
    without[:_BAR] = 80
    mask = np.zeros((1, _SIDE, _SIDE), np.uint8)
    mask[0, :_BAR] = 255
    cleaned = DerivedImage(
        ImageKind.CLEANED, uid, without[np.newaxis], "MONOCHROME2", "without the bar", verified=True
    )
    return PipelineResult(
        findings=(finding,),
        images=(cleaned, replace(cleaned, kind=ImageKind.MASK, frames=mask, verified=False)),
        models=(_model(),),
    )
