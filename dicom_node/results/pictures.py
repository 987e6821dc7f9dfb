"""Pictures with the result drawn in: secondary captures for viewers that show neither presentation states nor
reports.
"""

from collections.abc import Sequence

import numpy as np
from highdicom.sc import SCImage
from pydicom.dataset import Dataset

from ai_pipeline.contract import (
    DerivedImage,
    Finding,
    Picture,
)
from ai_pipeline.images.render import (
    annotate,
    heatmap_overlay,
    place_lines,
)
from dicom_node.base.lifecycle import ResultKind
from dicom_node.results.cleaned import frames_of
from dicom_node.results.context import ResultContext
from dicom_node.results.dataset import set_values, text_of
from dicom_node.results.derivation import (
    ORIENTATION_FOR_HIGHDICOM,
    copy_present,
    copy_spacing,
    describe_derivation,
    reference,
    set_orientation,
)
from dicom_node.results.envelope import complete, disclaimer, header_arguments
from dicom_node.results.report import ImageReport, Report, first_frame, further_numbers
from dicom_node.results.source import Source


def build_annotated(report: Report, image: ImageReport, cleaned: DerivedImage | None, uid: str) -> Dataset:
    """Build the picture of an image, or of its ``cleaned`` version, with boxes, names, probabilities and
    measured lines.

    Of a cine the frame with the first finding is shown. ``cleaned``: None to draw on the source; ``uid``: SOP
    Instance UID of the picture.
    """
    source, frame = image.source, first_frame(image.located)
    shown = [one for one in image.located if (one.finding.frame or 1) == frame]
    words = [
        *image.lines,
        *further_numbers(image),
        *place_lines(one.region for one in shown if one.region is not None),
    ]
    if source.frames > 1:
        words.append(f"frame {frame} of {source.frames}")
    pixels = annotate(
        display_of(source, cleaned, frame),
        [one.finding for one in shown],
        legend=[*words, disclaimer(report.context)],
        measurements=[one for one in image.measurements if (one.frame or 1) == frame],
    )
    return secondary_capture(
        report.context,
        [source],
        uid,
        ResultKind.SC,
        pixels,
        frame,
        source.number,
        f"AI findings drawn into the {'cleaned ' if cleaned else ''}image.",
        filled=cleaned is not None,
    )


def build_heatmap(
    context: ResultContext,
    source: Source,
    finding: Finding,
    rank: int,
    cleaned: DerivedImage | None,
    uid: str,
) -> Dataset:
    """Build the picture of an image, or of its ``cleaned`` version, under a finding's heat map (0 to 1), with
    a colour bar.

    ``rank``: 1 for the likeliest finding, its Instance Number. ``cleaned``: None to draw on the source;
    ``uid``: SOP Instance UID of the picture.
    """
    assert finding.evidence is not None
    frame = finding.frame or 1
    pixels = heatmap_overlay(display_of(source, cleaned, frame), finding, legend=[disclaimer(context)])
    return secondary_capture(
        context,
        [source],
        uid,
        ResultKind.HEATMAP,
        pixels,
        frame,
        rank,
        f"AI heat map ({finding.evidence.method}) of {finding.name}.",
        filled=cleaned is not None,
    )


def build_failure_picture(context: ResultContext, image: ImageReport, uid: str) -> Dataset:
    """Build a black picture of the image's size with the lines of the report that the AI did not run.

    The image is not shown: it may not decode, and its burned-in text was not removed. The picture is small if
    the image's header was refused.
    """
    source = image.source
    display = np.zeros((source.rows, source.columns) if source.rows > 0 else (512, 512), np.uint8)
    pixels = annotate(display, [], legend=[*image.lines, disclaimer(context)])
    return secondary_capture(
        context, [source], uid, ResultKind.SC, pixels, 1, source.number, "AI did not run."
    )


def secondary_capture(
    context: ResultContext,
    sources: Sequence[Source],
    uid: str,
    kind: ResultKind,
    pixels: Picture,
    frame: int,
    number: int,
    what: str,
    *,
    filled: bool = False,
    shown: Source | None = None,
) -> Dataset:
    """Build a secondary capture of RGB ``pixels``; the first of ``sources`` gives patient, study and series.

    ``frame``: the frame shown, ``number``: Instance Number, both from 1. ``what``: a sentence that describes
    the picture. ``filled``: whether it shows a cleaned image, in which some pixels were never measured.
    ``shown``: on a page about several images the one in its picture; None for a picture of one image.
    """
    source, *_ = sources
    picture = SCImage.from_ref_dataset(
        source.stand_in,
        pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=ORIENTATION_FOR_HIGHDICOM,
        **header_arguments(context, kind, source, uid, number),
    )
    describe_derivation(picture, shown or source, f"{what} {disclaimer(context)}"[:1024], frames=(frame,))
    picture.BurnedInAnnotation = "YES"
    if filled:
        picture.SyntheticData = "YES"  # PS3.3 C.12.1: filled pixels were never measured
    if shown is None:
        set_orientation(picture, source)
        copy_spacing(picture, source)  # the margin for the words leaves size and place of the pixels
        return complete(picture, context, kind, sources)
    set_values(picture, PatientOrientation=None, SourceImageSequence=[reference(one) for one in sources])
    for one in () if filled else sources:
        copy_present(picture, one, "SyntheticData")
    complete(picture, context, kind, sources)
    words = ("BodyPartExamined", "Laterality")
    if len({tuple(text_of(one.header, word) for word in words) for one in sources}) > 1:
        picture.pop("BodyPartExamined", None)
        picture.Laterality = ""
    return picture


def display_of(source: Source, cleaned: DerivedImage | None, frame: int) -> Picture:
    """A frame (from 1) as it is displayed, from the ``cleaned`` image if there is one, else from the source.

    Raises PixelError, and ResultRefused for a cleaned image of another size.
    """
    image = source.stored.image
    if cleaned is None:
        return image.display(frame - 1)
    return image.show(frames_of(source, cleaned)[frame - 1], frame - 1)
