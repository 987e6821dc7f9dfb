"""Choose the images that a pipeline analyses: their header and their pixels pass a check each."""

from collections.abc import Callable, Sequence

from ai_pipeline.contract import Accept, ModelRef, Refusal, Refuse, RefusedBy, SourceImage

WhyNot = Callable[[SourceImage], str | None]
"""The reason not to take an image; None or "" where there is none."""


def accept(
    images: Sequence[SourceImage],
    by_header: WhyNot,
    by_pixels: WhyNot,
    model: Callable[[], ModelRef],
    look_first: Callable[[SourceImage], str] = lambda _: "",
) -> Accept | Refuse:
    """Check each image and return which ones the pipeline analyses (Accept), or why it analyses none
    (Refuse). ``by_header`` and ``by_pixels`` return why they refuse an image, or None; ``by_pixels`` needs
    decoding, so it is called only for images that pass ``by_header``. ``model`` returns the model for which a
    refusal is recorded; ``look_first`` gives Refusal.look_first of an image refused by its pixels. Refuse
    gives each reason once.
    """
    taken: list[str] = []
    reasons: dict[str, None] = {}
    refused: list[Refusal] = []
    for image in images:
        gate, reason, told = RefusedBy.HEADER, by_header(image), ""
        if not reason:
            gate, reason = RefusedBy.PIXELS, by_pixels(image)
            if not reason:
                taken.append(image.uid)
                continue
            told = look_first(image)
        refused.append(Refusal(image.uid, model(), gate, told))
        reasons[reason] = None
    if taken:
        return Accept(tuple(taken), tuple(refused))
    return Refuse("; ".join(reasons) or "there is no image", tuple(refused))
