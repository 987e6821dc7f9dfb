"""Secondary captures with the result drawn in, for viewers that show neither reports nor presentation
states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from highdicom.sc import SCImage
from pydicom.dataset import Dataset

from ai_pipeline.contract import Decision, DerivedImage, Finding, Measurement, QualityNote
from ai_pipeline.images.render import annotate, heatmap_overlay, place_lines
from ai_pipeline.summary import result_lines
from dicom_node.model.kinds import ResultKind
from dicom_node.results.common.context import ResultContext
from dicom_node.results.common.derivation import (
    ORIENTATION_FOR_HIGHDICOM,
    copy_spacing,
    describe_derivation,
    set_orientation,
)
from dicom_node.results.common.envelope import complete, disclaimer, header_arguments
from dicom_node.results.common.source import Source
from dicom_node.results.common.tracked import LocatedFinding, located_findings, of_source, ranked, tracked
from dicom_node.results.sc.cleaned import frames_of

Picture = npt.NDArray[np.uint8]
_SMALL = (512, 512)  # rows and columns of the words on an image that is too large to be decoded


@dataclass(frozen=True, slots=True)
class Capture:
    """A picture with its description. ``frame`` and ``number`` (Instance Number) count from 1.

    ``filled``: whether it shows a cleaned image, in which some pixels were never measured.
    """

    kind: ResultKind
    pixels: Picture
    frame: int
    number: int
    what: str
    filled: bool = False


def build_annotated(
    context: ResultContext,
    source: Source,
    findings: Sequence[Finding],
    measurements: Sequence[Measurement],
    notes: Sequence[QualityNote],
    cleaned: DerivedImage | None,
    uid: str,
) -> Dataset:
    """The image, or its ``cleaned`` version, with boxes, names, probabilities and measured lines.

    Of a cine the frame with the first finding is shown. ``notes``: remarks to print beside the image.
    """
    located = located_findings(context, source, findings)
    frame = first_frame(located)
    shown = [one for one in located if (one.finding.frame or 1) == frame]
    words = result_lines(of_source(source, findings), measurements, notes)
    words += place_lines(one.region for one in shown if one.region is not None)
    if source.frames > 1:
        words.append(f"frame {frame} of {source.frames}")
    pixels = annotate(
        display_of(source, cleaned, frame),
        tracked(shown),
        legend=[*words, disclaimer(context)],
        measurements=[one for one in measurements if (one.frame or 1) == frame],
    )
    what = f"AI findings drawn into the {'cleaned ' if cleaned else ''}image."
    drawn = Capture(ResultKind.SC, pixels, frame, source.number, what, filled=cleaned is not None)
    return _picture(context, source, drawn, uid)


def with_evidence(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that get a heat map: those that are not absent and have one."""
    return [f for f in ranked(findings) if f.evidence is not None and f.decision is not Decision.ABSENT]


def build_heatmap(
    context: ResultContext,
    source: Source,
    finding: Finding,
    rank: int,
    cleaned: DerivedImage | None,
    uid: str,
) -> Dataset:
    """The image, or its ``cleaned`` version, under the heat map (0 to 1) of a finding, with a colour bar.

    ``rank`` 1 is the likeliest finding.
    """
    assert finding.evidence is not None
    frame = finding.frame or 1
    pixels = heatmap_overlay(display_of(source, cleaned, frame), finding, legend=[disclaimer(context)])
    what = f"AI heat map ({finding.evidence.method}) of {finding.name}."
    drawn = Capture(ResultKind.HEATMAP, pixels, frame, rank, what, filled=cleaned is not None)
    return _picture(context, source, drawn, uid)


def build_failure_picture(context: ResultContext, source: Source, reason: str, uid: str) -> Dataset:
    """A black picture of the image's size with the text that the AI did not run, and the reason.

    The image is not shown: it may not decode, and its burned-in text was not removed. The picture is small if
    the image's header was refused.
    """
    opened = source.stored.image.header.rows > 0
    display = np.zeros((source.rows, source.columns) if opened else _SMALL, np.uint8)
    pixels = annotate(display, [], legend=["AI did not run", reason, disclaimer(context)])
    return _picture(context, source, Capture(ResultKind.SC, pixels, 1, source.number, "AI did not run."), uid)


def capture(context: ResultContext, source: Source, drawn: Capture, uid: str, shown: Source) -> Dataset:
    """The object before :func:`dicom_node.results.common.envelope.complete`, without an orientation.

    ``source`` gives patient, study and series; ``shown`` is the image in the picture.
    """
    picture = SCImage.from_ref_dataset(
        source.stand_in,
        drawn.pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=ORIENTATION_FOR_HIGHDICOM,
        **header_arguments(context, drawn.kind, source, uid, drawn.number),
    )
    picture.PatientOrientation = None
    what = f"{drawn.what} {disclaimer(context)}"[:1024]
    describe_derivation(picture, shown, what, frames=(drawn.frame,))
    picture.BurnedInAnnotation = "YES"
    if drawn.filled:
        picture.SyntheticData = "YES"  # PS3.3 C.12.1: filled pixels were never measured
    return picture


def display_of(source: Source, cleaned: DerivedImage | None, frame: int) -> Picture:
    """A frame (from 1) as displayed: from the cleaned image if there is one, else from the source.

    Raises PixelError, and ResultRefused for a cleaned image of another size.
    """
    image = source.stored.image
    if cleaned is None:
        return image.display(frame - 1)
    return image.show(frames_of(source, cleaned)[frame - 1], frame - 1)


def first_frame(located: Sequence[LocatedFinding]) -> int:
    """The frame (from 1) of the first finding that names one."""
    return next((one.finding.frame for one in located if one.finding.frame), 1)


def _picture(context: ResultContext, source: Source, drawn: Capture, uid: str) -> Dataset:
    picture = capture(context, source, drawn, uid, source)
    set_orientation(picture, source)
    copy_spacing(picture, source)  # the margin for the words leaves size and place of the picture's pixels
    return complete(picture, context, drawn.kind, [source])
