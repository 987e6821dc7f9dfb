"""Texts at places of a picture."""

import numpy as np

from ai_pipeline.burnin.decide.layout import level_box
from ai_pipeline.burnin.decide.meaning import meaning_of
from ai_pipeline.burnin.decide.texts import Text
from ai_pipeline.burnin.find.annotation import Box, Picture
from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.burnin.find.text import TextBox
from ai_pipeline.contract import Meaning
from tests.unit.ai_pipeline.phantoms import echo


def box(left: float, top: float, right: float, bottom: float, slope: float = 0.0) -> TextBox:
    return TextBox(
        np.array([(left, top), (right, top + slope), (right, bottom + slope), (left, bottom)], np.float32),
        0.9,
    )


def line(words: str, confidence: float = 0.97) -> Line:
    return Line(words, confidence, legible=confidence >= 0.5)


STRIP = (40, 200, 440, 340)


GREEN, WHITE = (40, 230, 60), (255, 255, 255)


def spectrum(seed: int = 4) -> Picture:
    """A small fan above a strip with the waves of a Doppler spectrum, in RGB."""
    picture, random = np.zeros((360, 480, 3), np.uint8), np.random.default_rng(seed)
    picture[:180, 120:360] = echo(seed, (180, 240))[..., None]
    left, _, right, bottom = STRIP
    for column in range(right - left):
        height = int(20 + 80 * abs(np.sin(column / 40)) ** 3)
        picture[bottom - 20 - height : bottom - 20, left + column] = np.clip(
            random.rayleigh(60, height) + 40, 0, 255
        ).astype(np.uint8)[:, None]
    picture[bottom - 20, left:right] = (200, 200, 60)
    return picture


SHAPE = (200, 300)


LINE = (100, 40, 180, 60)


def text(words: str, box: Box = LINE, *, confidence: float = 0.95, legible: bool = True) -> Text:
    return Text(
        level_box(box, 0.9),
        Line(words, confidence, legible=legible),
        meaning_of(words, confidence) if legible else Meaning.IDENTITY,
    )


def block(*lines: tuple[str, int], left: int = 100, right: int = 180, high: int = 18) -> list[Text]:
    """Lines below each other, each with its top."""
    return [text(words, (left, top, right, top + high)) for words, top in lines]


def meanings(texts: list[Text]) -> list[Meaning]:
    return [one.meaning for one in texts]
