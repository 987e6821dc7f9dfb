"""Which images a pipeline takes: those that neither their header nor their pixels speak against."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ai_pipeline.contract import Accept, ModelRef, Refusal, Refuse, RefusedBy, SourceImage

WhyNot = Callable[[SourceImage], str | None]
"""The reason not to take an image; None or "" where there is none."""


def accept(
    images: Sequence[SourceImage], by_header: WhyNot, by_pixels: WhyNot, model: Callable[[], ModelRef]
) -> Accept | Refuse:
    """Accept the images that neither check refuses; ``by_pixels`` decodes, so it only gets images that passed
    the header.

    ``model``: the model that refuses. Where no image is taken, each reason is given once.
    """
    taken: list[str] = []
    reasons: dict[str, None] = {}
    refused: list[Refusal] = []
    for image in images:
        gate, reason = RefusedBy.HEADER, by_header(image)
        if not reason:
            gate, reason = RefusedBy.PIXELS, by_pixels(image)
        if not reason:
            taken.append(image.uid)
            continue
        refused.append(Refusal(image.uid, model(), gate))
        reasons[reason] = None
    if taken:
        return Accept(tuple(taken), tuple(refused))
    return Refuse("; ".join(reasons) or "there is no image", tuple(refused))
