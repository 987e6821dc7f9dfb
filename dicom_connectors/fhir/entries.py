"""Entries of a transaction Bundle (FHIR R4 3.1.0.11); sending a Bundle twice has the effect of once."""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from pydantic import ValidationError

from dicom_connectors.fhir.codes import DICOM_UID, Resource
from dicom_node.dicom.uids import derived_uid
from dicom_node.errors import FaultyInput

WITHDRAWN: Final = "entered-in-error"


def created(resource: Resource) -> Resource:
    """An entry that creates ``resource``, unless the server has one of its kind with its first UID."""
    kind, [own, *_] = resource["resourceType"], uids_of(resource)
    number = int(derived_uid("fhir entry", kind, own).removeprefix("2.25."))
    return {
        "fullUrl": f"urn:uuid:{uuid.UUID(int=number)}",
        "resource": resource,
        "request": {
            "method": "POST",
            "url": kind,
            "ifNoneExist": f"identifier={quote(identifier_query(own), safe='|:')}",
        },
    }


def updated(resource: Resource, now: Resource) -> Resource:
    """An entry that replaces ``now`` by ``resource``, if the server still has that version of ``now``."""
    version = (now.get("meta") or {}).get("versionId")
    url = f"{resource['resourceType']}/{now['id']}"
    match = {"ifMatch": f'W/"{version}"'} if version else {}
    return {"resource": resource, "request": {"method": "PUT", "url": url, **match}}


def marked(resource: Resource) -> Resource:
    """An entry that marks ``resource`` as entered in error."""
    return updated({**resource, "status": WITHDRAWN}, resource)


def reference(entry: Resource) -> Resource:
    """A Reference to the resource that another entry creates."""
    return {"reference": entry["fullUrl"]}


def transaction(entries: Sequence[Resource]) -> str:
    """The Bundle as JSON. Raises FaultyInput if it is invalid."""
    from fhir.resources.R4B.bundle import Bundle  # as R4 in all that is used here

    bundle: dict[str, Any] = {"resourceType": "Bundle", "type": "transaction", "entry": list(entries)}
    try:
        Bundle.model_validate(bundle)
    except ValidationError as error:
        places = sorted({".".join(map(str, one["loc"])) for one in error.errors(include_input=False)})
        raise FaultyInput(f"it makes no valid FHIR resources: {', '.join(places[:3])}") from None
    return json.dumps(bundle, ensure_ascii=False)


def identifier_query(*uids: str) -> str:
    """The value of the search parameter ``identifier`` that matches any of these UIDs."""
    return ",".join(f"{DICOM_UID}|urn:oid:{uid}" for uid in uids)


def uids_of(resource: Mapping[str, Any]) -> list[str]:
    """The UIDs among the identifiers of a resource."""
    return [str(one["value"]).removeprefix("urn:oid:") for one in _of_dicom(resource)]


def _of_dicom(resource: Mapping[str, Any]) -> Iterator[Mapping[str, str]]:
    for one in resource.get("identifier") or ():
        if one.get("system") == DICOM_UID and str(one.get("value") or "").startswith("urn:oid:"):
            yield one
