"""Who made a result: this node with its versions, and its models, as equipment, observer and algorithm."""

from highdicom import ContributingEquipment
from highdicom.sr import (
    AlgorithmIdentification,
    DeviceObserverIdentifyingAttributes,
    ObserverContext,
)
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode

from ai_pipeline import contract
from dicom_node.base.dicom.uids import (
    MANUFACTURER,
    MODEL_NAME,
    derived_uid,
)
from dicom_node.base.lifecycle import ResultKind
from dicom_node.results.context import ResultContext
from dicom_node.results.uids import BUILDER_VERSION, model_parts, program_texts


def software_versions(context: ResultContext) -> list[str]:
    """The Software Versions of a result: the builder's version and the pipeline's; not the release of the
    node.

    A result is identified by what decides its content, and a new release need not change that.
    """
    return [f"results {BUILDER_VERSION}", f"{context.pipeline} {context.pipeline_version}"[:64]]


def contributing_equipment(context: ResultContext, kind: ResultKind) -> list[ContributingEquipment]:
    """The items of Contributing Equipment Sequence: one for the node, and one for each of its models (IHE AIR
    6.5.3.1).

    Purposes are from CID 7005. A cleaned image has a second item for the node, which changed the source's
    pixels. The time of each is set with the object's other times (``envelope.freeze_times``).
    """
    items = [node_equipment(context, "AI node: built this object", codes.DCM.ProcessingEquipment)]
    if kind is ResultKind.CLEANED:
        what = "AI node: filled pixels of burned-in annotation"
        items.append(node_equipment(context, what, codes.DCM.ModifyingEquipment))
    for model in context.models:
        # The UID changes with the weights or the card.
        uid = derived_uid("model", context.installation.device_uid, *model_parts(model))
        what = f"AI model: inference; SHA-256 of weights {model.sha256}, of card {model.card_sha256}"
        purpose = codes.DCM.ProcessingEquipment
        items.append(_equipment_item(context, uid, model.id[:64], [model.version[:64]], what, purpose))
    return items


def device_observer(context: ResultContext) -> ObserverContext:
    """The SR items (TID 1004) that name this node as observer; its UID is derived from installation, pipeline
    and models.
    """
    return ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=derived_uid("observer", context.installation.device_uid, *program_texts(context)),
            name=context.station_name or MODEL_NAME,
            manufacturer_name=MANUFACTURER,
            model_name=MODEL_NAME,
            serial_number=context.installation.serial_number,
        ),
    )


def algorithm(model: contract.ModelRef, finding: contract.Finding | None = None) -> AlgorithmIdentification:
    """The SR items (TID 4019) that name a model; for a ``finding`` with the operating threshold of its
    label.
    """
    threshold = finding.threshold if finding is not None else None
    parameters = None if threshold is None else [f"operating threshold {threshold:.4g}"]
    return AlgorithmIdentification(name=model.id, version=model.version, parameters=parameters)


def node_equipment(context: ResultContext, what: str, purpose: DicomCode) -> ContributingEquipment:
    """The item of Contributing Equipment Sequence that says that this node did ``what``, for a ``purpose`` of
    CID 7005.
    """
    uid = context.installation.device_uid
    return _equipment_item(context, uid, MODEL_NAME, software_versions(context), what, purpose)


def _equipment_item(
    context: ResultContext,
    uid: str,
    name: str,
    versions: list[str],
    what: str,
    purpose: DicomCode,
) -> ContributingEquipment:
    """An item of Contributing Equipment Sequence for the node or a model that did ``what``.

    ``name`` and ``versions``: its model name and software versions; ``uid``: its Device UID.
    """
    item = ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=purpose,
        manufacturer_model_name=name,
        software_versions=versions,
        device_serial_number=context.installation.serial_number,
        station_name=context.station_name[:16] or None,
        contribution_description=what,
    )
    item.DeviceUID = uid
    return item
