"""The maker of a result: General Equipment, Contributing Equipment and the observer of a report."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from highdicom import ContributingEquipment
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    DeviceObserverIdentifyingAttributes,
    ObservationContext,
    ObserverContext,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode

from ai_pipeline.contract import Finding, ModelRef
from dicom_node.dicom.own_objects import MANUFACTURER, MODEL_NAME
from dicom_node.model.kinds import ResultKind
from dicom_node.results.common.concepts import (
    ACQUISITION_EQUIPMENT,
    DEIDENTIFYING_EQUIPMENT,
    MODIFYING_EQUIPMENT,
    PROCESSING_EQUIPMENT,
)
from dicom_node.results.common.context import ResultContext
from dicom_node.results.common.fetus import subject_context
from dicom_node.results.common.identity import BUILDER_VERSION, model_device_uid, observer_uid
from dicom_node.results.common.times import dicom_datetime


def general_equipment(context: ResultContext) -> dict[str, Any]:
    """Arguments of highdicom's constructors for General Equipment (PS3.3 C.7.5.1, C.7.5.2)."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MODEL_NAME,
        "software_versions": software_versions(context),
        "device_serial_number": context.installation.serial_number,
    }


def software_versions(context: ResultContext) -> list[str]:
    """The builder's version, not the release: the identity of a result decides all of its content."""
    return [f"results {BUILDER_VERSION}", f"{context.pipeline} {context.pipeline_version}"[:64]]


def contributing_equipment(
    context: ResultContext, offset: str, kind: ResultKind
) -> list[ContributingEquipment]:
    """One item for the installation, and one for each of its models (IHE AIR 6.5.3.1).

    ``offset``: as from ``envelope.offset_of``. Purposes are from CID 7005. A cleaned image has a second item
    for the node, which changed the source's pixels.
    """
    items = [_node(context, offset, "AI node: built this object", PROCESSING_EQUIPMENT)]
    if kind is ResultKind.CLEANED:
        items.append(
            _node(context, offset, "AI node: filled pixels of burned-in annotation", MODIFYING_EQUIPMENT)
        )
    for model in context.models:
        item = _item(
            context, offset, model.id[:64], [model.version[:64]], "AI model: inference", PROCESSING_EQUIPMENT
        )
        item.DeviceUID = model_device_uid(context, model)
        items.append(item)
    return items


def deidentifying_equipment(context: ResultContext) -> ContributingEquipment:
    """The node as the equipment that applied the confidentiality profile (CID 7005)."""
    return _node(context, "", "AI node: applied the confidentiality profile", DEIDENTIFYING_EQUIPMENT)


def acquisition_equipment(header: Dataset) -> Dataset:
    """The machine that made a source (CID 7005), as far as ``header`` names it; PS3.15 E.3.9 retains it."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(ACQUISITION_EQUIPMENT)]
    item.Manufacturer = header.get("Manufacturer") or ""
    for keyword in ("ManufacturerModelName", "DeviceSerialNumber", "StationName", "SoftwareVersions"):
        if header.get(keyword):
            item[keyword] = deepcopy(header[keyword])
    return item


def finish(dataset: Dataset, context: ResultContext, offset: str) -> None:
    """Add attributes that highdicom's constructors do not accept, and fix the time in highdicom's own item.

    highdicom writes the present time there, so two builds would differ.
    """
    dataset.DeviceUID = context.installation.device_uid
    for item in dataset.ContributingEquipmentSequence:
        if item.get("ManufacturerModelName") == "highdicom":
            item.ContributionDateTime = dicom_datetime(context.analysed_at, offset)


def observation_context(context: ResultContext, fetus: str = "") -> ObservationContext:
    """TID 1001 with a device observer (TID 1004): no person has looked at this.

    ``fetus``: the fetus that is the subject, "" for the patient.
    """
    observed = ObservationContext(observer_device_context=device_observer(context))
    if fetus:
        observed.extend(subject_context(fetus))
    return observed


def device_observer(context: ResultContext) -> ObserverContext:
    """TID 1004 for this node."""
    device = DeviceObserverIdentifyingAttributes(
        uid=observer_uid(context),
        name=context.station_name or MODEL_NAME,
        manufacturer_name=MANUFACTURER,
        model_name=MODEL_NAME,
        serial_number=context.installation.serial_number,
    )
    return ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)


def algorithm(model: ModelRef, finding: Finding | None = None) -> AlgorithmIdentification:
    """TID 4019 of a model; for a finding with the operating threshold of its label."""
    threshold = finding.threshold if finding is not None else None
    parameters = None if threshold is None else [f"operating threshold {threshold:.4g}"]
    return AlgorithmIdentification(name=model.id, version=model.version, parameters=parameters)


def _node(context: ResultContext, offset: str, what: str, purpose: DicomCode) -> ContributingEquipment:
    item = _item(context, offset, MODEL_NAME, software_versions(context), what, purpose)
    item.DeviceUID = context.installation.device_uid
    return item


def _item(
    context: ResultContext, offset: str, name: str, versions: list[str], what: str, purpose: DicomCode
) -> ContributingEquipment:
    return ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=purpose,
        manufacturer_model_name=name,
        software_versions=versions,
        device_serial_number=context.installation.serial_number,
        station_name=context.station_name[:16] or None,
        contribution_datetime=dicom_datetime(context.analysed_at, offset),
        contribution_description=what,
    )
