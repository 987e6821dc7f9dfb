"""Drawn organs of a chest, and what is said of them."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from ai_pipeline.chest import calls
from ai_pipeline.chest.anatomy import Anatomy, AnatomyModel, anatomy_of
from ai_pipeline.chest.pipeline import ChestXray
from ai_pipeline.contract import ModelRef, PipelineResult
from ai_pipeline.images.coordinates import Affine
from ai_pipeline.models.registry import Card, Chain, Input
from tests.unit.ai_pipeline.phantoms import film, noise, silent

SAME = Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
NOISE = noise((512, 512))


def result_of(chest: ChestXray, pixels: np.ndarray, view: str) -> PipelineResult:
    image = film(np.ascontiguousarray(pixels), attributes=LYING, view_position=view)
    return chest.run([image], silent, {"outlines": True})


def texts(result: PipelineResult, name: str) -> list[str]:
    return [note.text for note in result.quality if note.name == name]


def anatomy(share: float = 0.7) -> Anatomy:
    """Lungs from column 10 to 90 of 100, and a heart of 40 columns of which a share lies right of 50."""
    masks = np.zeros((3, 100, 100), np.bool_)
    masks[1, 20:80, 10:40] = masks[2, 20:80, 60:90] = True
    right = round(40 * share)
    masks[0, 50:75, 10 + right : 50 + right] = True
    return Anatomy(masks, SAME, None, turn=1 - 2 * share)


def with_details(card: Card, **details: object) -> Card:
    return replace(card, details={**card.details, **details})


SPECIFIC, BALANCED, SENSITIVE = calls.OperatingPoint


SIDE = 160


INPUT = Input(SIDE, 3, (127.0,), (128.0,), "MONOCHROME2", Chain(side=SIDE, blur=0, jpeg_quality=95))


def by_darkness(values: np.ndarray) -> dict[str, np.ndarray]:
    """An engine that knows a drawn chest's organs by their grey, wherever they are."""
    grey = values[:, 0] * 128 + 127
    bright, dark = grey > 195, grey < 115
    right = dark & ((np.arange(SIDE) + 0.5) < SIDE / 2)
    return {"organs": np.stack([bright, right, dark & ~right], axis=1).astype(np.float32)}


MODEL = AnatomyModel(INPUT, by_darkness, 0.05, ModelRef("anatomy", "1", "a" * 64, "b" * 64), (-0.03, 0.03))


TOLERANCE = 0.03


def found(masks: np.ndarray, *more: np.ndarray) -> Anatomy:
    """What is made of outlines that are ``masks`` in the first variant, ``more`` in the others."""
    variants = np.stack([masks, *(more or (masks, masks))]).astype(np.float32)
    return anatomy_of(variants, [SAME] * len(variants), SAME, TOLERANCE)


EVERYTHING = {"all_labels": True, "heatmaps": True}


def nih_film(data: Path, name: str = "00000032_037.jpg") -> np.ndarray:
    """An image of ``cxr_nih``; by default with cardiomegaly in both label and box."""
    return np.asarray(cv2.imread(str(data / "cxr_nih" / "images" / name), cv2.IMREAD_GRAYSCALE), np.uint8)


LYING = {"PatientOrientation": "L\\F"}
