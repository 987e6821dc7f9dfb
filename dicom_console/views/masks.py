"""Outlines of organs and of removed text as overlays on an image: one for each segment of a SEG."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import islice

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_console.views.pictures import Shown, two_at_a_time
from dicom_node.config.settings import Settings
from dicom_node.errors import NotFound
from dicom_node.model.kinds import ResultKind
from dicom_node.object_store.files import Files
from dicom_node.store import results
from dicom_node.store.tables import Result
from dicom_node.store.views import View

_COLOURS = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (204, 121, 167))
"""By Okabe and Ito: people with any colour vision distinguish them."""
_OPACITY = 96  # of 255
_MOST = 16  # segments that a viewer offers


def masks(session: Session, settings: Settings, study: int, uid: str) -> list[View]:
    """The segments drawn on the image ``uid``, without segments of withdrawn results."""
    chosen = select(Result).where(Result.study_id == study, Result.kind == ResultKind.SEG)
    rows = session.scalars(chosen.where(Result.deidentified.is_(False)).order_by(Result.id.desc())).all()
    gone = results.withdrawn(session, [row.id for row in rows])
    replaced = {row.supersedes for row in rows}
    door = Files(settings)
    found: dict[str, View] = {}
    for row in rows:
        path = door.if_here(session, row.path)
        if path is None or row.id in gone or row.sop_instance_uid in replaced:
            continue
        header = dcmread(path, stop_before_pixels=True)
        if uid in _images(header):
            for segment in header.SegmentSequence:
                number, label = int(segment.SegmentNumber), str(segment.SegmentLabel)
                found.setdefault(label, {"result": row.id, "segment": number, "name": label})
    return list(islice(found.values(), _MOST))


def mask_png(shown: Shown, segment: int) -> bytes:
    """A segment as coloured, half transparent PNG in the size of its image. Raises NotFound."""
    if shown.kind != ResultKind.SEG:
        raise NotFound("there is no such outline")
    with two_at_a_time():
        found = dcmread(shown.path)
        frames = found.pixel_array.reshape(-1, found.Rows, found.Columns)
        here = [
            place
            for place, item in enumerate(found.PerFrameFunctionalGroupsSequence)
            if item.SegmentIdentificationSequence[0].ReferencedSegmentNumber == segment
        ]
        if not here:
            raise NotFound("there is no such outline")
        painted = np.zeros((*frames.shape[1:], 4), np.uint8)
        painted[frames[here].any(axis=0)] = (*_COLOURS[(segment - 1) % len(_COLOURS)], _OPACITY)
        data = io.BytesIO()
        Image.fromarray(painted).save(data, "PNG", compress_level=1)
    return data.getvalue()


def _images(header: Dataset) -> set[str]:
    """The images that a SEG refers to."""

    def referenced() -> Iterator[str]:
        for series in header.get("ReferencedSeriesSequence", ()):
            for item in series.get("ReferencedInstanceSequence", ()):
                yield str(item.ReferencedSOPInstanceUID)
        for item in header.get("SourceImageSequence", ()):
            yield str(item.ReferencedSOPInstanceUID)

    return set(referenced())
