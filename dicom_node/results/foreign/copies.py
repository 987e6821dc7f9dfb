"""Copies of what a program was given: an image that shows the same as an input is no result (PS3.3 C.7.6.1).

Another name, transfer syntax or rescale makes no other image: frames are compared after decoding, in the
values that they mean. What was compressed with loss differs, and is not found.
"""

from collections.abc import Iterator

from ai_pipeline.errors import NoDecoder, PixelError
from ai_pipeline.images.decode import DicomImage
from dicom_node.results.foreign.candidate import Candidate
from dicom_node.results.foreign.given import GivenInstance, GivenStudy
from dicom_node.results.foreign.pixels import FrameValues, opened
from dicom_node.results.foreign.verdict import Remark, noted, refused


def check_copies(candidate: Candidate) -> Iterator[Remark]:
    """Yield an image all of whose frames repeat frames of inputs: a renamed or rescaled copy."""
    try:
        with opened(candidate.dataset) as image:
            if _is_copy(image, candidate.given):
                yield refused("its pixels are those of an image that the program got: it is a copy")
    except (PixelError, NoDecoder):
        yield noted("its pixels could not be decoded here, and were not compared with those of the inputs")


def _is_copy(image: DicomImage, given: GivenStudy) -> bool:
    """Whether each frame repeats one of an input; ends at the first that does not."""
    size = image.header.rows, image.header.columns
    inputs = [one for one in given.instances() if (one.rows, one.columns) == size]
    return bool(inputs) and all(
        _is_repeated(FrameValues.of(image, frame), inputs) for frame in range(image.header.frames)
    )


def _is_repeated(frame: FrameValues, inputs: list[GivenInstance]) -> bool:
    """Whether a frame repeats one of the inputs, all of its size."""
    grid = frame.grid
    return any(
        grid.repeats(theirs) and frame.repeats(one.frame_values(number))
        for one in inputs
        for number, theirs in enumerate(one.grids)
    )
