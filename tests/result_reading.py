"""Codes, and results read back: data sets, and the content items of a report by their codes."""

import io

import pydicom
from pydicom.dataset import Dataset

from dicom_node.results.built_object import BuiltObject
from tests.modality import data_set


def read_result(built: BuiltObject) -> Dataset:
    """The object as its destination gets it."""
    return pydicom.dcmread(io.BytesIO(built.data))


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence."""
    return data_set(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def content(item: Dataset) -> list[Dataset]:
    """A content item and all below it, outer ones first."""
    return [item, *(deep for child in item.get("ContentSequence") or [] for deep in content(child))]


def of_type(item: Dataset, value_type: str) -> list[Dataset]:
    """The content items of this value type, such as NUM."""
    return [one for one in content(item) if one.get("ValueType") == value_type]


def code_of(item: Dataset) -> str:
    """The code of its concept name, empty without one."""
    return str((item.get("ConceptNameCodeSequence") or [Dataset()])[0].get("CodeValue", ""))


def meaning_of(item: Dataset) -> str:
    """Its concept name in words, empty without one."""
    return str((item.get("ConceptNameCodeSequence") or [Dataset()])[0].get("CodeMeaning", ""))


def named(item: Dataset, code: str) -> list[Dataset]:
    """The content items with this concept name."""
    return [one for one in content(item) if code_of(one) == code]


def groups_of(report: Dataset) -> list[Dataset]:
    """Its Measurement Groups (TID 1501)."""
    return named(report, "125007")
