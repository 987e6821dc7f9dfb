"""The series of results: their names and numbers."""

from typing import Final

from pydicom.dataset import Dataset

from dicom_node.base.lifecycle import RESULT_KINDS, ResultKind
from dicom_node.results.context import ResultContext

RULE_STEP: Final = 100
"""Between the series numbers of two rules of a study."""
_LONGEST: Final = 64  # characters of VR LO
OUTLINES_SERIES_NUMBER: Final = 9010
"""Of outlined organs: in a series of their own."""


def series_description(context: ResultContext, kind: ResultKind, name: str = "") -> str:
    """The Series Description (0008,103E) of results: what they are, the pipeline's name, and the warning.

    VR LO holds 64 characters; the pipeline's name is cut if needed. ``name`` replaces the
    usual name of this kind of series; "" for the usual one.
    """
    warning = "inpainted, not for measurement" if kind is ResultKind.CLEANED else "not for diagnostic use"
    begins, ends = f"{name or RESULT_KINDS[kind].series} - ", f" - {warning}"
    return f"{begins}{context.pipeline[: _LONGEST - len(begins) - len(ends)]}{ends}"


def series_number_beside(result: Dataset, kind: ResultKind) -> int:
    """The series number for an object of this kind beside ``result``, among the numbers of the same rule."""
    return int(result.SeriesNumber) // RULE_STEP * RULE_STEP + RESULT_KINDS[kind].series_number % RULE_STEP
