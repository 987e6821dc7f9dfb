"""Subject context of a fetus (PS3.16 TID 1006, TID 1008): without it a measurement is the mother's."""

from __future__ import annotations

from collections.abc import Iterable

from highdicom.sr import SubjectContext, SubjectContextFetus
from pydicom.dataset import Dataset

from ai_pipeline.contract import Measurement
from dicom_node.dicom.walk import items
from dicom_node.results.common import concepts


def subject_context(fetus: str) -> SubjectContext:
    """Subject Class and, as Subject ID, the letter or number of the fetus.

    The template allows Fetus ID (11951-1, LN) only in place of Subject ID. The mother is the Patient, so the
    template does not ask for her name.
    """
    return SubjectContext(concepts.FETUS, SubjectContextFetus(fetus))


def fetus_of_all(measurements: Iterable[Measurement]) -> str:
    """The fetus that all measurements belong to; "" if one belongs to the patient, or to another fetus."""
    fetuses = {one.fetus for one in measurements}
    return fetuses.pop() if len(fetuses) == 1 else ""


def fetus_of_reports(objects: Iterable[Dataset]) -> str:
    """The fetus that the reports among these objects are about; "" if there is none or more than one."""
    named = {
        str(item.TextValue)
        for one in objects
        for item in items(one)
        if item.get("ValueType") == "TEXT" and _concept(item) == concepts.SUBJECT_ID.value
    }
    return named.pop() if len(named) == 1 else ""


def _concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].get("CodeValue") or "") if names else ""
