"""The settings of a peer that gives the node work."""

from typing import TYPE_CHECKING, Annotated, Self, cast

from pydantic import Field, model_validator

from dicom_node.base.config.section import Section

if TYPE_CHECKING:
    from dicom_node.base.config.peer import PeerSettings

_WORK = r"^(\*|[!-\]_-~]{1,16}\^[!-\]_-~]{1,16})$"


class WorklistPeer(Section):
    """Mixin that adds the keys of worklist managers to the settings of a peer (``[[peers]]``)."""

    worklist: tuple[Annotated[str, Field(pattern=_WORK)], ...] = Field((), max_length=50)
    """Codes of work items (UPS) that the node takes from this worklist manager: VALUE^SCHEME of Scheduled
    Workitem Code, or "*" for any; by UPS-RS at url (transport = "dicomweb"), or by UPS Pull ("dimse"). Empty:
    it is not asked."""
    worklist_seconds: float = Field(30, ge=2, le=3600)
    """With worklist: how often it is searched, and a claimed item looked up. Of the manager of a rule: how
    often an item that the node requested is looked up."""
    worklist_items: int = Field(10, ge=1, le=1000)
    """With worklist: claimed items at the same time at most; others are left to other performers."""
    worklist_hours: float = Field(24, gt=0, le=168)
    """With worklist: what is not done after this time is reported as CANCELED, and an outcome that the
    manager does not take is given up after as long."""

    @model_validator(mode="after")
    def _can_have_work(self) -> Self:
        """Refuse ``worklist`` for a peer that cannot be a worklist manager. Raises ValueError."""
        peer = cast("PeerSettings", self)
        if not self.worklist:
            return self
        if peer.transport not in ("dimse", "dicomweb"):
            raise ValueError(
                'worklist is for peers with transport = "dicomweb" (UPS-RS) or "dimse" (UPS Pull)'
            )
        if peer.transport == "dicomweb" and not peer.url:
            raise ValueError("transport dicomweb needs url")
        if peer.transport == "dimse" and (missing := peer.missing_of_address()):
            raise ValueError(f"{missing}: a worklist manager needs host and port")
        return self

    @property
    def is_called(self) -> bool:
        """Whether the node itself opens connections to the peer, as it does to a worklist manager."""
        return bool(self.worklist) or cast("PeerSettings", super()).is_called
