"""A report as resources of HL7 FHIR R4 (4.0.1), built from its SR file."""

from __future__ import annotations

from dicom_node.fhir.codes import Resource
from dicom_node.fhir.entries import identifier_query, uids_of
from dicom_node.fhir.filed import FiledReport
from dicom_node.fhir.report import ReportTransaction

__all__ = ["FiledReport", "ReportTransaction", "Resource", "identifier_query", "uids_of"]
