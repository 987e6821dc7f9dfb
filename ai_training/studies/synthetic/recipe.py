"""How synthetic images are made, as the table ``[synthesis]`` of a study file says it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ai_training.networks.gan import doublings

Steps = Annotated[int, Field(gt=0)]


class Synthesis(BaseModel):
    """``kinds`` of generators for images of ``side`` pixels with ``label``.

    ``iterations`` on all images of the train split, then ``rare_iterations`` on those with the label.
    ``width``: channels at full size, ``widest``: PGGAN's at 4 to 16 pixels. ``images``: how many are drawn.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

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
        """Two steps to a few images of 16 pixels."""
        small = {"side": 16, "iterations": 2, "rare_iterations": 1, "images": 4, "batch": 4, "widest": 16}
        return self.model_copy(update=small)
