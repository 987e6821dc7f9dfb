"""Secondary Captures that a person calls ultrasound: a chest film among them is refused by its pixels."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from unittest.mock import Mock

import numpy as np
import pytest
from pydicom.uid import SecondaryCaptureImageStorage, UltrasoundImageStorage

from ai_pipeline.contract import Accept, Refuse, SourceImage
from ai_pipeline.errors import PixelError
from dicom_node.jobs.worker.analysis import ImageAnalysis
from dicom_node.results.source import SourceObject
from tests.result_images import source, write_image
from tests.unit.jobs.worker_lab import Obedient

FILM, SPECKLE = np.full((64, 48), 200, np.uint8), np.full((64, 48), 40, np.uint8)


class Ultrasounds(Obedient):
    """Takes all that its header calls ultrasound."""

    card = replace(Obedient.card, modalities=frozenset({"US"}))


class BrightFilms(Obedient):
    """Takes bright images for chest films, as far as their header calls them films."""

    card = replace(Obedient.card, modalities=frozenset({"DX"}), recognises="a chest film")

    def accepts(
        self, images: Sequence[SourceImage], options: Mapping[str, object] = MappingProxyType({})
    ) -> Accept | Refuse:
        [image] = images
        if image.header.modality == "DX" and image.stored().mean() > 100:
            return Accept((image.uid,))
        return Refuse("no film")


class Blind(BrightFilms):
    """Decodes nothing."""

    def accepts(
        self, images: Sequence[SourceImage], options: Mapping[str, object] = MappingProxyType({})
    ) -> Accept | Refuse:
        raise PixelError("the pixels do not decode")


def made(
    folder: Path, name: str, pixels: np.ndarray, sop_class: str = SecondaryCaptureImageStorage
) -> SourceObject:
    return source(write_image(folder / f"{name}.dcm", sop_class, pixels, Modality="US"))


def judged(*sources: SourceObject, chest: Obedient | None = None) -> Accept | Refuse:
    pipeline, analysis = Ultrasounds(), ImageAnalysis(Mock(at=lambda _: nullcontext()), Mock())
    verdict = pipeline.accepts([one.image for one in sources])
    return analysis.without_mistaken(verdict, pipeline, [chest or BrightFilms()], sources)


def test_a_film_alone_is_refused_and_says_why(tmp_path: Path) -> None:
    film = made(tmp_path, "film", FILM)
    verdict = judged(film)
    assert isinstance(verdict, Refuse)
    assert verdict.reason == "the pixels look like a chest film, and it was sent as US: send it as that"
    assert [refusal.source_uid for refusal in verdict.refused] == [film.image.uid]
    assert film.image.header.modality == "US", "the image itself is as it was"


def test_of_several_the_ultrasound_stays(tmp_path: Path) -> None:
    film, speckle = made(tmp_path, "film", FILM), made(tmp_path, "speckle", SPECKLE)
    verdict = judged(film, speckle)
    assert isinstance(verdict, Accept)
    assert verdict.source_uids == (speckle.image.uid,)
    assert [refusal.source_uid for refusal in verdict.refused] == [film.image.uid]


@pytest.mark.parametrize(
    ("pixels", "sop_class", "chest"),
    [
        (SPECKLE, SecondaryCaptureImageStorage, BrightFilms()),
        (FILM, UltrasoundImageStorage, BrightFilms()),
        (FILM, SecondaryCaptureImageStorage, Obedient()),
        (FILM, SecondaryCaptureImageStorage, Blind()),
    ],
    ids=[
        "no film",
        "of a device, which knows what it is",
        "the other recognises nothing",
        "what cannot be judged: its pipeline says why",
    ],
)
def test_what_is_not_surely_a_film_is_taken(
    tmp_path: Path, pixels: np.ndarray, sop_class: str, chest: Obedient
) -> None:
    image = made(tmp_path, "one", pixels, sop_class)
    assert judged(image, chest=chest) == Accept((image.image.uid,))
