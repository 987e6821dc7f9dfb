"""Karnak's own code, played rule by rule, forwards what the service answers: covered, or not at all."""

import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLSLossless

from ai_pipeline.burnin.tools import Tools, shared_tools
from ai_pipeline.images.limits import LIMITS
from ai_pipeline.serve import worker
from ai_pipeline.serve.tasks import Answer, Outcome, Task
from tests.modality import ultrasound_from
from tests.ultrasound_lab import ENCODINGS, SIZE, Reader, decoded, picture, write
from tests.unit.ai_pipeline.serve import karnak_caller
from tests.unit.ai_pipeline.serve.karnak_caller import NotForwardedError, ask, masks_of
from tests.unit.ai_pipeline.serve.serve_lab import Scripted, Service, served

UID = "1.2.3.4"


class Cleaning(Scripted):
    """Carries tasks out in this process."""

    def answer(self, task: Task, source: int, target: int, waits: Callable[[], bool]) -> Answer:
        with os.fdopen(os.dup(source), "rb") as received, os.fdopen(os.dup(target), "wb") as cleaned:
            return worker.answered(task, received, cleaned, self.tools, LIMITS)

    tools: Tools


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with served(cleaning=Cleaning()) as service:
        Cleaning.tools = shared_tools()
        yield service


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(side=240)


def forwarded(service: Service, dataset: Dataset) -> np.ndarray:
    """The frames as Karnak forwards them, 8 bits: the masks are drawn on each. Raises NotForwardedError."""
    masks = masks_of(ask(service.url, dataset), dataset.SOPInstanceUID)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    samples = decoded(file.getvalue())
    frames = (samples >> 8 * (samples.dtype.itemsize - 1)).astype(np.uint8)
    for mask in masks:
        for left, top, width, height in mask.rectangles:
            colour = mask.colour if frames.ndim == 4 else mask.colour[0]
            frames[:, top : top + height, left : left + width] = colour
    return frames


@pytest.mark.parametrize("name", ENCODINGS)
def test_karnak_forwards_no_name(name: str, tmp_path: Path, service: Service, reader: Reader) -> None:
    dataset = dcmread(write(ENCODINGS[name], tmp_path))
    frames = forwarded(service, dataset)
    assert [secret for frame in frames for secret in reader.secrets(frame)] == []


def test_karnak_forwards_a_picture_without_text_unchanged(service: Service) -> None:
    dataset = ultrasound_from("empty", np.full((*SIZE, 3), 9, np.uint8))
    assert np.array_equal(forwarded(service, dataset)[0], dataset.pixel_array)


def test_a_frame_in_two_fragments_of_which_karnak_sends_one_is_not_forwarded(service: Service) -> None:
    dataset = ultrasound_from("halves", picture(9, SIZE, colour=True))
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    frame = karnak_caller.image_of(dataset)
    dataset.PixelData = encapsulate([frame], fragments_per_frame=2)
    with pytest.raises(NotForwardedError, match="status 400"):
        forwarded(service, dataset)


def test_karnak_asks_which_tags_are_in_the_picture(tmp_path: Path, service: Service) -> None:
    dataset = dcmread(write(ENCODINGS["still-jpeg-rgb"], tmp_path))
    dataset.PatientName, dataset.PatientID = "Kowalska^Maria", "0048271935"
    answer = ask(service.url, dataset, "/reporting").json()
    assert {"PatientName", "PatientID"} <= {*answer["detected_tags"]}
    assert answer["sop_instance_uid"] == dataset.SOPInstanceUID


MASK = {"stationName": "*", "color": "14181a", "rectangles": ["1 2 3 4"]}
MASKED = Answer(Outcome.CLEANED, report={"masks": [MASK], "detected_tags": []})


@contextmanager
def asked(answer: Answer, **fields: str) -> Iterator[requests.Response]:
    dataset = ultrasound_from("asked", np.zeros((8, 8, 3), np.uint8))
    dataset.SOPInstanceUID = UID
    with served(answer) as service:
        yield ask(service.url, dataset, **fields)


def test_karnak_takes_masks_with_its_uid() -> None:
    with asked(MASKED) as answer:
        (mask,) = masks_of(answer, UID)
    assert (mask.rectangles, mask.colour) == ([(1, 2, 3, 4)], (0x14, 0x18, 0x1A))


def test_karnak_does_not_take_masks_for_another_object() -> None:
    with asked(MASKED, sop_instance_uid="1.2.3.5") as answer, pytest.raises(NotForwardedError):
        masks_of(answer, UID)


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.CLEANED])
def test_karnak_forwards_nothing_without_success(outcome: Outcome) -> None:
    with asked(Answer(outcome, "because", report=MASKED.report)) as answer:
        assert "masks" not in answer.json()
        with pytest.raises(NotForwardedError, match="status"):
            masks_of(answer, UID)


@pytest.mark.parametrize(
    "said", [{}, {"masks": []}, {"masks": [MASK | {"reason": "a name"}]}, {"masks": [MASK]}]
)
def test_the_played_caller_is_as_strict_as_karnak(said: dict[str, object]) -> None:
    """Else the tests above would pass with answers that Karnak drops."""
    answer = requests.Response()
    answer.status_code = 200
    answer._content = json.dumps(said).encode()
    with pytest.raises(NotForwardedError):
        masks_of(answer, UID)
