"""The recipe for synthetic images: the table ``[synthesis]`` of a study file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from ai_training.experiments import ExperimentPart
from ai_training.networks.gan import doublings

Steps = Annotated[int, Field(gt=0)]


class Synthesis(ExperimentPart):
    """Settings for training generators that make images with the finding ``label``.

    ``kinds``: the architectures. ``side``: size of the images in pixels. A generator is trained for
    ``iterations`` on all images of the train split, then for ``rare_iterations`` on images with the label.
    ``width``: number of channels at full size; ``widest``: channels of PGGAN at 4 to 16 pixels. ``images``:
    how many images are drawn in the end.
    """

    label: str
    kinds: tuple[Literal["dcgan", "pggan"], ...] = ("dcgan", "pggan")
    side: int = 64
    latent: Steps = 64
    width: Steps = 16
    widest: Steps = 64
    batch: Annotated[int, Field(gt=1)] = 16
    iterations: Steps = 800
    rare_iterations: Steps = 200
    images: Annotated[int, Field(gt=1)] = 300
    seed: int = 1

    @field_validator("side")
    @classmethod
    def _doubled(cls, side: int) -> int:
        doublings(side)
        return side

    def toy(self) -> Synthesis:
        """The same recipe reduced for tests: two steps, a few images of 16 pixels."""
        small = {"side": 16, "iterations": 2, "rare_iterations": 1, "images": 4, "batch": 4, "widest": 16}
        return self.model_copy(update=small)
