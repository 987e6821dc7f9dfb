"""The settings that a peer with ``transport = "fhir"`` has in addition."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, cast

from pydantic import Field, model_validator

from dicom_node.base.config.section import Secret, Section
from dicom_node.base.connectors import typed_section
from dicom_node.base.lifecycle import ResultKind

if TYPE_CHECKING:
    from dicom_node.base.config.peer import PeerSettings
    from dicom_node.base.config.settings import Settings
    from dicom_node.people.preflight import Found

_URI = r"^(urn:|https?://)[!-~]{1,240}$"


class FhirPeer(Section):
    """Mixin that adds the keys of FHIR servers to the settings of a peer (``[[peers]]``)."""

    by_url: ClassVar = frozenset({"fhir"})
    reads_reports: ClassVar = frozenset({"fhir"})
    token: Secret = Field("", validate_default=True, examples=["${file:/run/secrets/ehr}"])
    """For fhir: a bearer token in place of user name and password; by ${VAR}, never in the file."""
    patient_systems: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(pattern=_URI)]] = Field(
        {}, max_length=20, examples=[{"HOSPITAL": "urn:oid:1.2.276.0.76.3.1"}]
    )
    """For fhir: identifier systems (URIs) of Patient IDs by Issuer of Patient ID (0010,0021); the key ""
    is for images that name none."""

    @model_validator(mode="before")
    @classmethod
    def _gets_reports(cls, given: Any) -> Any:
        """Set ``results`` to reports (SR) in the raw settings ``given`` of a FHIR peer that does
        not set it.
        """
        if isinstance(given, dict) and given.get("transport") == "fhir":
            return {"results": (ResultKind.SR,), **given}
        return given

    @model_validator(mode="after")
    def _gets_reports_only(self) -> Self:
        """Raise ValueError for settings that do not fit a FHIR peer: results other than reports,
        de-identification, roles other than "receive", or two logins.
        """
        peer = cast("PeerSettings", self)
        if peer.transport != "fhir":
            return self
        if peer.deidentify:
            raise ValueError("a FHIR server has the patient's record: no deidentify with transport fhir")
        if peer.may != ("receive",):
            raise ValueError('transport fhir is for results: set may = ["receive"]')
        if peer.results != (ResultKind.SR,) or peer.assessments or peer.iocm:
            raise ValueError('reports alone go by FHIR: results = ["sr"], no iocm, no assessments')
        if self.token.get_secret_value() and peer.username:
            raise ValueError("give token, or username and password, not both")
        return self


def check(settings: Settings) -> Found:
    """Yield FHIR peers for which the library is not installed, and FHIR keys of peers with another
    transport.
    """
    for peer in settings.peers:
        key = f"peers.{peer.name}"
        if peer.transport == "fhir" and find_spec("fhir") is None:
            remedy = "needs fhir.resources: pip install 'dicom-ai-node[fhir]'"
            yield f"{key}.transport", peer.transport, remedy
        added = typed_section(peer, FhirPeer)
        given = {"token": added.token.get_secret_value(), "patient_systems": added.patient_systems}
        for name in (name for name, value in given.items() if value and peer.transport != "fhir"):
            yield f"{key}.{name}", "", 'without transport = "fhir" it says nothing: leave it out'
