"""DIMSE-N requests; also with any bytes as their data set, as only a faulty or hostile peer sends them."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom import build_context, build_role
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_ACTION, N_CREATE, N_EVENT_REPORT

from dicom_node.deliver.scu.dimse import CallingAE


def associate_for(
    sop_class: UID, port: int, calling: str, *, as_provider: bool = False, seconds: float = 30
) -> Association:
    """For this class in Implicit VR Little Endian, established or not; ``as_provider``: its SCP asks."""
    ae = CallingAE(ae_title=calling)
    ae.dimse_timeout = seconds
    roles = [build_role(sop_class, scp_role=True)] if as_provider else []
    context = build_context(sop_class, ImplicitVRLittleEndian)
    return ae.associate("127.0.0.1", port, [context], ae_title="AINODE", ext_neg=roles)


def answered(association: Association, send: Callable[[Association], tuple[Dataset, Any]]) -> Dataset | str:
    """Its answer, without a status where none came, and release it; or why it could not be asked."""
    if not association.is_established:
        return "rejected" if association.is_rejected else "no context"
    try:
        return send(association)[0]
    except (RuntimeError, ValueError):  # the association was cut under us
        return Dataset()
    finally:
        if association.is_established:
            association.release()


def status_of(
    association: Association, request: N_ACTION | N_CREATE | N_EVENT_REPORT, keyword: str, encoded: bytes
) -> int | None:
    """Send the request with these bytes in the one context that was accepted, and abort.

    ``keyword``: the attribute of the request that holds the data set. None: the association was cut.
    """
    assert association.is_established
    request.MessageID = 1
    setattr(request, keyword, BytesIO(encoded) if encoded else None)
    (context,) = association.accepted_contexts
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, context.context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    association.abort()
    return None if answer is None else answer.Status
