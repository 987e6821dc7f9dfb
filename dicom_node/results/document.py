"""The summary page as an Encapsulated PDF (PS3.3 A.45.1), for systems that accept documents, not pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from highdicom.base import SOPClass
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage

from ai_pipeline.images.page import lay_out_page
from dicom_node.connectors import installed
from dicom_node.errors import ResultRefused
from dicom_node.model.kinds import ResultKind
from dicom_node.results.common.concepts import IMAGING_REPORT
from dicom_node.results.common.context import ResultContext
from dicom_node.results.common.envelope import complete, header_arguments
from dicom_node.results.common.source import Source
from dicom_node.results.sc.page import TITLE, SummaryPage

MIME_TYPE: Final = "application/pdf"
_DATETIME: Final = re.compile(r"\d{14}(\.\d{1,6})?([+-]\d{4})?")  # PS3.5 6.2, whole


def build_document(
    context: ResultContext, sources: Sequence[Source], summary: SummaryPage, uid: str
) -> Dataset:
    """The page as a document on these ``sources``; marked unverified, because a program made it."""
    page = lay_out_page(TITLE, summary.head, summary.shown, summary.captions, summary.words, summary.foot)
    if not (writer := installed("documents").get("pdf")):
        raise ResultRefused("a PDF needs the connector pdf")
    pdf: bytes = writer.load()(page, TITLE, context.analysed_at)
    arguments = header_arguments(context, ResultKind.PDF, sources[0], uid, len(sources))
    equipment = arguments.pop("contributing_equipment")
    document = SOPClass(
        study_instance_uid=sources[0].study_uid,
        sop_class_uid=EncapsulatedPDFStorage,
        modality="DOC",
        **arguments,
    )
    document.ContributingEquipmentSequence = equipment
    document.ConversionType = "WSD"
    document.AcquisitionDateTime = _began(sources)
    document.BurnedInAnnotation = "YES"
    document.DocumentTitle = TITLE
    document.ConceptNameCodeSequence = [CodedConcept.from_code(IMAGING_REPORT)]
    document.VerificationFlag = "UNVERIFIED"
    document.SourceInstanceSequence = [_named(one) for one in sources]
    document.MIMETypeOfEncapsulatedDocument = MIME_TYPE
    document.EncapsulatedDocumentLength = len(pdf)
    document.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    return complete(document, context, ResultKind.PDF, sources)


def _named(source: Source) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.sop_class_uid, source.uid
    return item


def _began(sources: Sequence[Source]) -> str:
    """Acquisition DateTime (0008,002A) of the first image, "" where one does not say it."""
    times = [
        str(one.header.get("AcquisitionDateTime") or "")
        or f"{one.header.get('AcquisitionDate') or ''}{one.header.get('AcquisitionTime') or ''}"
        for one in sources
    ]
    return min(times) if all(map(_DATETIME.fullmatch, times)) else ""
