"""What a program was given: the study of the call, its images and those of earlier studies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from ai_pipeline.errors import NoDecoder, PixelError
from ai_pipeline.images.decode import DicomImage, open_dicom
from ai_pipeline.images.numbers import whole_of
from dicom_node.base.dicom.header import items, quiet_pydicom, values
from dicom_node.base.dicom.identity import identity_sha256, identity_texts
from dicom_node.results.context import ResultContext
from dicom_node.results.dataset import text_of
from dicom_node.results.foreign.pixels import FrameValues, opened
from dicom_node.results.foreign.planes import Plane, Stack, plane_of


@dataclass(frozen=True, eq=False)
class GivenInstance:
    """An image or object that the program got.

    ``header``: its data set without pixels, decoded by pydicom. ``path``: its Part 10 file, with which the
    pixels of a picture are compared; None: they are not compared.
    """

    header: Dataset
    path: Path | None = None

    @classmethod
    def read(cls, path: Path) -> GivenInstance:
        """Read the header of a file that the node has received and inspected. Raises OSError."""
        with quiet_pydicom():
            return cls(pydicom.dcmread(path, stop_before_pixels=True), path)

    @cached_property
    def uid(self) -> str:
        """SOP Instance UID."""
        return text_of(self.header, "SOPInstanceUID")

    @cached_property
    def sop_class_uid(self) -> str:
        """SOP Class UID."""
        return text_of(self.header, "SOPClassUID")

    @cached_property
    def series_uid(self) -> str:
        """Series Instance UID."""
        return text_of(self.header, "SeriesInstanceUID")

    @cached_property
    def study_uid(self) -> str:
        """Study Instance UID."""
        return text_of(self.header, "StudyInstanceUID")

    @cached_property
    def frame_of_reference(self) -> str:
        """Frame of Reference UID, "" without one."""
        return text_of(self.header, "FrameOfReferenceUID")

    @cached_property
    def rows(self) -> int:
        """Rows, 0 of an object that is no image."""
        return whole_of(self.header, "Rows", 0)

    @cached_property
    def columns(self) -> int:
        """Columns, 0 of an object that is no image."""
        return whole_of(self.header, "Columns", 0)

    @cached_property
    def frames(self) -> int:
        """Number of Frames, 1 if it says none."""
        return whole_of(self.header, "NumberOfFrames", 1, least=1)

    @cached_property
    def planes(self) -> tuple[Plane, ...]:
        """Where its frames lie, those that say it."""
        found = (plane_of(self.header, frame) for frame in range(1, self.frames + 1))
        return tuple(plane for plane in found if plane is not None)

    @cached_property
    def grids(self) -> tuple[FrameValues, ...]:
        """Some samples of each frame (``FrameValues.grid``); none of an object that is not decoded here."""
        try:
            with self._opened() as image:
                return tuple(FrameValues.of(image, frame).grid for frame in range(image.header.frames))
        except (PixelError, NoDecoder):
            return ()

    def frame_values(self, frame: int) -> FrameValues:
        """The values of a frame (from 0). Raises PixelError."""
        with self._opened() as image:
            return FrameValues.of(image, frame)

    @contextmanager
    def _opened(self) -> Iterator[DicomImage]:
        """The image, from its file or its data set. Raises PixelError."""
        if self.path is not None:
            yield open_dicom(self.path)
        else:
            with opened(self.header) as image:
                yield image


@dataclass(frozen=True, eq=False)
class GivenStudy:
    """What a program's answer is judged by.

    ``context``: program, version, time of the call and installation, as of all results of the job.
    ``source``: decoded header of an image of the study, from which patient, study and accession come
    (``results.source.Source.header``). ``given``: the program's inputs by SOP Instance UID; ``priors``:
    inputs of earlier studies. ``rule``: name of the rule. ``manufacturer``: of the program, "" if unknown.
    ``sent_as``: the identity that the program saw, where that was a pseudonym; None: that of ``source``.
    ``input_sizes``: (columns, rows) to which the model scales its images, as its card says.
    ``known_names``: names and IDs of other patients, to be looked for in text.
    """

    context: ResultContext
    source: Dataset
    given: Mapping[str, GivenInstance]
    priors: Mapping[str, GivenInstance] = field(default_factory=dict)
    rule: str = ""
    manufacturer: str = ""
    sent_as: Dataset | None = None
    input_sizes: frozenset[tuple[int, int]] = frozenset()
    known_names: frozenset[str] = frozenset()

    @property
    def study_uid(self) -> str:
        """Study Instance UID of the call."""
        return text_of(self.source, "StudyInstanceUID")

    @property
    def identity_sha256(self) -> str:
        """Hash of patient and study: UIDs of results change when the patient's identity is corrected."""
        return identity_sha256(identity_texts(self.source))

    @property
    def made_at(self) -> datetime:
        """When the program ran, with time zone."""
        return self.context.analysed_at

    @cached_property
    def uids(self) -> frozenset[str]:
        """All UIDs in the headers of the inputs: their instances, series, studies, frames of reference."""
        headers = [self.source, *(one.header for one in self.instances())]
        return frozenset(
            str(value) for header in headers for element, value in values(header) if element.VR == "UI"
        )

    @cached_property
    def referred_to(self) -> frozenset[str]:
        """What the inputs refer to themselves, such as scouts."""
        found = (item for one in self.instances() for item in items(one.header))
        return frozenset(text_of(item, "ReferencedSOPInstanceUID") for item in found) - {""}

    @cached_property
    def frames_of_reference(self) -> frozenset[str]:
        """The frames of reference of the inputs."""
        return frozenset(one.frame_of_reference for one in self.instances()) - {""}

    @cached_property
    def stack(self) -> Stack:
        """Where all frames of this study's inputs lie."""
        return Stack([plane for one in self.given.values() for plane in one.planes])

    def stack_in(self, frame_of_reference: str) -> Stack:
        """Where the frames of all inputs in a frame of reference lie."""
        if frame_of_reference not in self._stacks:
            inputs = [one for one in self.instances() if one.frame_of_reference == frame_of_reference]
            self._stacks[frame_of_reference] = Stack([plane for one in inputs for plane in one.planes])
        return self._stacks[frame_of_reference]

    @cached_property
    def _stacks(self) -> dict[str, Stack]:
        """What ``stack_in`` found before: a report may have thousands of points."""
        return {}

    @cached_property
    def by_place(self) -> Mapping[tuple[float, ...], Sequence[GivenInstance]]:
        """This study's inputs of one frame by the position of their first pixel (mm, rounded)."""
        found: dict[tuple[float, ...], list[GivenInstance]] = {}
        for one in self.given.values():
            if len(one.planes) == 1:
                found.setdefault(one.planes[0].place, []).append(one)
        return found

    def stated(self, keyword: str) -> frozenset[str]:
        """The values that an attribute has in the inputs, as texts, without empty ones."""
        if keyword not in self._stated:
            found = frozenset(text_of(one.header, keyword) for one in self.instances()) - {""}
            self._stated[keyword] = found
        return self._stated[keyword]

    @cached_property
    def _stated(self) -> dict[str, frozenset[str]]:
        """What ``stated`` found before: an answer may have as many objects as inputs."""
        return {}

    def instance(self, uid: str) -> GivenInstance | None:
        """The input with this SOP Instance UID, of this study or an earlier one; None if none was given."""
        return self.given.get(uid) or self.priors.get(uid)

    def instances(self) -> Iterator[GivenInstance]:
        """All inputs, those of this study first."""
        yield from self.given.values()
        yield from self.priors.values()
