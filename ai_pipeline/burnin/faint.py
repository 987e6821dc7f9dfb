"""Faint writing: text that differs little from its background, outside the image area."""

from dataclasses import replace

import numpy as np

from ai_pipeline.burnin.decide.candidates import FAINT, FINEST, surroundings
from ai_pipeline.burnin.decide.layout import overlap
from ai_pipeline.burnin.decide.letters import FEWEST
from ai_pipeline.burnin.decide.outline import blocks
from ai_pipeline.burnin.decide.writing import SAME
from ai_pipeline.burnin.find.annotation import AnnotationKind, Mark, Picture, component_boxes, components
from ai_pipeline.burnin.find.area import amplified, faint_writing
from ai_pipeline.burnin.find.text import TextBox, TextReader, looks_like_text, paint
from ai_pipeline.burnin.planning import MARGIN, RemovalPlan, check_share
from ai_pipeline.contract import PixelArray


def with_faint_writing(
    plan: RemovalPlan, samples: PixelArray, reader: TextReader, *, of_one_frame: bool = True
) -> RemovalPlan:
    """The plan with faint text added that lies outside its image area: blocks of pixels that differ little
    from the background in the stored ``samples``.

    What is faint is amplified, and what the ``reader`` then finds there is text; faint echoes are not. Not
    ``of_one_frame``: how much several differ, where the noise of compression looks like text; there only
    legible text counts. Raises :class:`CleaningFailed` as :func:`plan_removal` does.
    """
    known = plan.mask | plan.banner | plan.kept | plan.not_tissue | plan.waves.pixels
    # Between the image area and a panel dim signs look like faint writing.
    faint, strong = faint_writing(samples, plan.area | plan.panels, known)
    if not faint.any():
        return plan
    faint = blocks(faint) & ~known & ~plan.area & ~strong
    shown = np.where(faint, amplified(samples), np.uint8(128))
    boxes: list[TextBox] = []
    for place in surroundings(faint, FINEST):  # the rest is plain grey
        for box in (*reader.find(shown, within=place), *reader.find_upright(shown, FAINT, place)):
            if all(overlap(box.box, other.box) < SAME for other in boxes):
                boxes.append(box)
    lines = [
        # Beside what is found a line may continue on both sides (heights).
        box.longer(6.0, shown.shape, end=True).longer(6.0, shown.shape, end=False)
        for box in boxes
        # Confidence of the text detector from which an unreadable box of a text's shape counts as text.
        if (of_one_frame and box.confidence >= 0.6 and looks_like_text(box, shown.shape))
        or _holds_letters(box, shown, reader)
    ]
    labels, _ = components(faint)
    faint &= np.isin(labels, labels[paint(lines, faint.shape, MARGIN)])
    check_share(plan.mask | faint)
    marks = (
        # Confidence with which faint writing is reported.
        Mark(AnnotationKind.BANNER, box, 0.1, proof="faint writing")
        for box in component_boxes(components(faint)[1])
    )
    return replace(plan, mask=plan.mask | faint, marks=(*plan.marks, *marks))


def _holds_letters(box: TextBox, picture: Picture, reader: TextReader) -> bool:
    """Whether several letters are read in a box; a level one that is narrower than high has room for one."""
    left, top, right, bottom = box.box
    if right - left < bottom - top and not box.is_upright:
        return False
    line = reader.read(picture, box)
    return line.legible and line.letters >= FEWEST
