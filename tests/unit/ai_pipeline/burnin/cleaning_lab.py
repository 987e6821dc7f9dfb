"""Pictures that are cleaned, and what is looked for in what is left of them."""

from itertools import cycle
from pathlib import Path

import numpy as np
from typer.testing import CliRunner, Result

from ai_pipeline.burnin.cleaning import CleaningResult, clean
from ai_pipeline.burnin.decide.layout import level_box
from ai_pipeline.burnin.find.annotation import AnnotationKind, Box, CleaningPolicy, Picture
from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.burnin.find.text import TextBox, TextReader, shared_reader
from ai_pipeline.cli import app
from ai_pipeline.contract import ImageHeader, Meaning, SourceImage
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.decode import open_dicom
from tests.ultrasound_lab import told
from tests.unit.ai_pipeline.phantoms import ArrayImage, echo, silent, write_dicom

WHITE, YELLOW = (255, 255, 255), (255, 230, 0)
LITTLE = (120, 200)  # hardly more than the text takes: most of the time is the search for it


def cleaned_or_nothing(
    image: SourceImage, policy: CleaningPolicy = CleaningPolicy.CLINICAL
) -> CleaningResult | None:
    """The result, its pixels outside the mask proven to be the source's; None where nothing leaves."""
    try:
        result = clean(image, silent, policy=policy)
    except CleaningFailed as refusal:
        assert told(repr((refusal, refusal.__cause__, refusal.__context__)).upper()) == []  # names nobody
        return None
    frames, mask = np.asarray(result.image.frames), np.asarray(result.mask.frames) > 0
    assert result.image.verified
    assert np.array_equal(
        frames[~mask], np.stack([image.stored(index) for index in range(image.header.frames)])[~mask]
    )
    return result


def shown(image: ArrayImage, result: CleaningResult, frame: int = 0) -> Picture:
    """A cleaned frame as a viewer shows it."""
    return image.show(np.asarray(result.image.frames[frame]))


def covered(before: np.ndarray, burned: np.ndarray, result: CleaningResult, frame: int = 0) -> float:
    """Share of what was written that the mask holds."""
    written = before != burned if before.ndim == 2 else (before != burned).any(axis=2)
    return float((np.asarray(result.mask.frames[frame]) > 0)[written].mean())


LONG, WARM = 24, 8  # frames


SMALL, TINY = (240, 320), (160, 240)


def legible(picture: Picture, least: int = 1) -> list[str]:
    """The texts of so many letters and more that rapidocr reads, at two sizes."""
    reader = shared_reader()
    return [
        line.text
        for scale in (1.0, 0.7)
        for box in reader.find(picture, scale)
        if (line := reader.read(picture, box, least)).legible
    ]


class Sees(TextReader):
    """Takes a place for text, another one of these each time, and reads this line in it."""

    def __init__(self, line: Line, *places: Box) -> None:
        self.line, self.places = line, cycle(places)

    def find(self, picture: Picture, scale: float = 1.0, within: object = None) -> list[TextBox]:
        return [level_box(next(self.places), 0.9)]

    def read(self, picture: Picture, box: TextBox, least: int = 1) -> Line:
        return self.line


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["run", *map(str, words)])


def header(path: Path, **attributes: object) -> ImageHeader:
    given = {"Manufacturer": "The MAKER Inc.", "ManufacturerModelName": "scan  7"} | attributes
    return open_dicom(write_dicom(path / "image.dcm", echo(1, SMALL)[None], **given)).header


CLINICAL, RESEARCH = CleaningPolicy.CLINICAL, CleaningPolicy.RESEARCH
IDENTITY, ACOUSTIC = Meaning.IDENTITY, Meaning.ACOUSTIC
TEXT, CALIPER, LOGO = AnnotationKind.TEXT, AnnotationKind.CALIPER, AnnotationKind.LOGO
