"""The pipeline ``remote``: its options and card. A job of it waits for the answer of a vendor's AI server."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal

from ai_pipeline.contract import (
    Accept,
    ModelRef,
    PipelineCard,
    PipelineOptions,
    PipelineResult,
    Progress,
    Refuse,
    SourceImage,
    option,
)
from ai_pipeline.errors import ProgramFailed
from ai_pipeline.models.registry import NAME

_NAMED: Final = "letters, digits, '.', '_', '+' and '-', 64 at most: results name it"


class RemoteOptions(PipelineOptions):
    """Options of the pipeline ``remote``."""

    peer: str = option(..., "Peer", wanted="the name of a peer that may send and receive", min_length=1)
    """The peer that is the vendor's server, reached by DICOM (`transport = "dimse"`) or by HTTP
    (`transport = "dicomweb"`)."""
    second: str = option("", "Second peer", wanted="the name of another peer of that kind")
    """Gets a study if the first cannot be reached (no connection, no association) for half of the deadline,
    which begins again for it. What the first sends for that study later changes nothing. Empty: none."""
    answers: Literal["sent", "returned", "fetched"] = option("sent", "How it answers")
    """`sent`: by C-STORE to the node's listener under its AE title; by HTTP to the console, with a token of
    the study. `returned`, by HTTP: in its answer to the request that brings the study. `fetched`: it has
    them, and is queried until nothing new is there."""
    model: str = option(..., "Model", wanted=_NAMED, pattern=f"^{NAME.pattern}$")
    """What results name as the model: letters, digits, `.`, `_`, `+`, `-`."""
    version: str = option(..., "Version of the model", wanted=_NAMED, pattern=f"^{NAME.pattern}$")
    """The same for its version. Raise it when the vendor changes its algorithm."""
    deadline: float = option(10.0, "Deadline", unit="min", gt=0, le=1440)
    """How long the sending of a study may take, and from then on the answer. After it the PACS gets the
    report that the AI did not run, and an answer that comes later waits for a person."""
    under_way: int = option(10, "Studies under way", ge=1, le=1000)
    """Studies that the server has at the same time at most; further ones wait."""
    deidentify: bool = option(False, "De-identified copies")
    """The server gets copies under a pseudonym, with other UIDs and without what names the patient. Only CT,
    MR, PET and nuclear medicine: pixels of others may show a name."""
    manager: str = option("", "Worklist manager", wanted="the name of a peer with transport dicomweb")
    """The peer that is the worklist manager (UPS-RS) at which a work item is created for each study: the
    answer is whole when the item is COMPLETED and all results that it names came. Empty: none."""
    work: str = option(
        "110004^DCM^Computer Aided Detection",
        "Work",
        wanted="VALUE^SCHEME^MEANING",
        pattern=r"^[!-\]_-~]{1,16}\^[!-\]_-~]{1,16}\^[^\^\\\x00-\x1f]{1,64}$",
    )
    """With manager: the Scheduled Workitem Code of its work items."""


class Remote:
    """The pipeline ``remote`` (:class:`ai_pipeline.contract.Pipeline`): the node runs it, not a worker."""

    card = PipelineCard(
        name="remote",
        version="1.0",
        about="A vendor's AI server, which gets the images by DICOM or HTTP and answers so.",
        intended_use="As its vendor says: the node judges to whom an answer belongs and to what it refers, "
        "not whether it is right.",
        options=RemoteOptions,
        per_image=False,
    )

    def warm_up(self) -> None:
        """Load nothing."""

    def models(self) -> tuple[ModelRef, ...]:
        """Return no model: which one answers depends on a rule's options, and each result names it."""
        return ()

    def accepts(
        self,
        images: Sequence[SourceImage],
        options: Mapping[str, object] = MappingProxyType({}),  # noqa: ARG002  (the rule has chosen)
    ) -> Accept | Refuse:
        """Accept every object, because the rule has chosen the objects."""
        return Accept(tuple(image.uid for image in images)) if images else Refuse("there is no object")

    def run(
        self,
        images: Sequence[SourceImage],  # noqa: ARG002
        report: Progress,  # noqa: ARG002
        options: Mapping[str, object],  # noqa: ARG002
    ) -> PipelineResult:
        """Raise ProgramFailed: outside of a node nobody awaits an answer."""
        raise ProgramFailed("remote works in a node only, which awaits the answers of the server")
