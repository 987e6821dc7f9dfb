"""``[[peers]]``: the settings of a modality, a PACS, an Orthanc."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dicom_node.base.config.section import (
    AeTitle,
    AtLeastOne,
    Host,
    Name,
    Port,
    Secret,
    Section,
    checked_url,
    refuse,
)
from dicom_node.base.connectors import extended, installed
from dicom_node.base.lifecycle import DEIDENTIFIED_KINDS, ResultForm, ResultKind, Retained

if TYPE_CHECKING:
    Transport = str
else:
    Transport = Literal["dimse", *installed("destinations")]
PeerService = Literal["storage", "query", "commitment"]


@extended("settings.peers")
class PeerSettings(Section):
    """``[[peers]]``: a modality, a PACS, an Orthanc."""

    by_url: ClassVar = frozenset({"orthanc", "dicomweb"})
    """Transports whose peers have a base URL. A connector's class may have more."""
    by_address: ClassVar = frozenset({"dimse"})
    """Transports whose peers have host and port. A connector's class may have more."""
    takes_over: ClassVar[frozenset[str]] = frozenset()
    """Transports whose acknowledgement says that the peer is responsible from now on."""
    reads_reports: ClassVar[frozenset[str]] = frozenset()
    """Transports that make a message of our report, and can send no other object."""

    name: Name
    """Short name, used in rules and commands."""
    ae_title: AeTitle
    """Its AE title."""
    host: Host = ""
    """Its address, for sending and (with check_address) for receiving."""
    port: Port | None = None
    """Its port; needed when it may receive over DIMSE."""
    may: tuple[Literal["send", "receive", "query"], ...] = ("send",)
    """"send": may send to us. "receive": may get results. "query": may be asked for studies."""
    check_address: bool = False
    """Refuse associations under this AE title from another address than host."""
    maximum_associations: AtLeastOne = 20
    """Associations of this peer at the same time."""
    quiet_seconds: float | None = Field(None, ge=0)
    """Overrides assembly.quiet_seconds for studies of this peer."""
    silent_hours: NonNegativeFloat = 0
    """Event 1010 when no object came from it for so long; 0: it may be silent."""
    mpps: bool = False
    """With "send": it may report on its performed procedure steps (MPPS): a study is complete when its steps
    have ended and all images that they name are here."""
    assume_charset: str = ""
    """Specific Character Set (0008,0005) to assume where this peer names none or a wrong one."""
    transport: Transport = "dimse"
    """How results are sent: C-STORE, Orthanc's REST API, STOW-RS; reports as HL7 v2 ORU^R01 by MLLP, or as
    resources of FHIR R4."""
    url: Annotated[str, AfterValidator(checked_url)] = ""
    """Base URL for orthanc (http://host:8042), dicomweb (…/dicom-web) and fhir (…/fhir)."""
    username: str = ""
    """For HTTP; better by ${VAR}."""
    password: Secret = Field("", validate_default=True)
    """For HTTP; by ${VAR}, never in the file."""
    authorities: Path | None = Field(None, examples=["tls/vendor-ca.pem"])
    """For HTTP: PEM file of the only CAs that are trusted; left out: the CAs of the system."""
    tls: bool = False
    """Call this peer with DICOM TLS, or MLLP over TLS, with the listener's certificate as ours."""
    results: tuple[ResultKind, ...] = (ResultKind.SR, ResultKind.GSPS, ResultKind.SC)
    """Kinds of result that it can show: sr, gsps, sc, summary, pdf (needs the extra pdf), heatmap, cleaned,
    seg, obgyn (fetal biometry, TID 5000), kos (key objects, which name the others); of programs also map
    (parametric map), rtstruct, image (derived)."""
    confirm: Literal["query", "commitment", "none"] = "query"
    """"query": ask until it shows the object. "commitment": until it says that it keeps it. "none": its
    Success is all we get."""
    commitment_hours: PositiveFloat = Field(24, le=168)
    """With confirm = "commitment": how long its report may take."""
    commitment_else: Literal["query", "give_up"] = "query"
    """Where no report comes: "query": ask as without commitment. "give_up": a dead letter, for a person."""
    query_ae_title: AeTitle | None = None
    """Another AE title to query, where store and query are two AEs."""
    query_host: Host | None = None
    """Another host to query."""
    query_port: Port | None = None
    """Another port to query."""
    retrieve: Literal["move", "get"] = "move"
    """With "query" or fetched answers, unless by DICOMweb: C-MOVE (the peer knows our AE title and address,
    and may send), or C-GET."""
    fetch_per_minute: PositiveFloat = Field(6, le=600)
    """With "query": studies a minute that are retrieved from it at most."""
    retrieve_minutes: PositiveFloat = Field(10, le=55)
    """With "query": how long the retrieval of one study may take."""
    missing_days: NonNegativeInt = Field(0, le=90)
    """With "query": once a day it is asked for studies of the last days without a result; 0: it is not."""
    commitment_ae_title: AeTitle | None = None
    """Another AE title for storage commitment; reports may come from either."""
    commitment_host: Host | None = None
    """Another host for storage commitment."""
    commitment_port: Port | None = None
    """Another port for storage commitment."""
    commit_after: Literal["", "delivered"] = ""
    """"delivered": it may ask us for storage commitment of what it sent, and gets our report once an archive
    in forward of a rule has confirmed the image. Empty: its requests are refused."""
    commit_hours: PositiveFloat = Field(24, le=168)
    """With commit_after: what no archive has confirmed after this time is reported as a failure, and a report
    that the peer does not take is given up after as long."""
    iocm: bool = False
    """Gets a rejection note (IHE IOCM) when results that it has are withdrawn, and hides or deletes them.
    With transport = "hl7": a message that takes them back."""
    withdraw: Literal["", "delete"] = ""
    """With "delete" the node deletes there the results that a person withdraws, and asks whether they are
    gone. By Orthanc's REST API, or by DELETE of DICOMweb, which the standard does not have. By FHIR they are
    marked as entered in error."""
    assessments: bool = False
    """Gets persons' verdicts on findings in reports that it has, as a further SR (as IHE AIRA does)."""
    charset: Literal["utf8", "source"] = "utf8"
    """Character set of results: ISO_IR 192, or the source's for an old PACS."""
    viewer: Literal["", "ohif"] = ""
    """What its readers see reports with. "ohif": reports without a place are words alone, a sentence is
    beside each box, and OHIF can make boxes, lines and outlines measurements of its own."""
    outlines: Literal["sr", "seg", "none"] = "seg"
    """Where outlines of organs go: "sr": into the report, as closed polylines. "seg": into a segmentation,
    where results has seg. "none": nowhere."""
    seg_geometry: bool = False
    """Give segmentations of images without Image Orientation (Patient), as CR, DX and ultrasound, an invented
    geometry: OHIF opens no other ones. The object says so."""
    deidentify: bool = False
    """Results without identity (PS3.15 Annex E), pseudonyms by the site key. For cleaned, seg and sr only."""
    pseudonym_domain: Name | None = None
    """With deidentify: only peers of one domain share pseudonyms and UIDs; all without a domain do."""
    retain: tuple[Retained, ...] = ()
    """With deidentify, kept besides: modified_dates, patient_characteristics."""
    entered: int = 0
    """The node itself sets it, for peers that a person entered: they follow console.local_peers."""

    @model_validator(mode="before")
    @classmethod
    def _move_login_out_of_url(cls, given: Any) -> Any:
        """Validator: move user and password from ``url`` to the keys ``username`` and ``password``, so that
        the URL can be shown.
        """
        url = given.get("url") if isinstance(given, dict) else None
        found = re.fullmatch(r"(https?://)(.*)@(.*)", url, re.DOTALL) if isinstance(url, str) else None
        if found is None or {"username", "password"} & given.keys():
            return given
        scheme, login, place = found.groups()
        name, _, password = login.partition(":")
        return {**given, "url": scheme + place, "username": unquote(name), "password": unquote(password)}

    @field_validator("results")
    @classmethod
    def _notes_have_a_key(cls, results: tuple[ResultKind, ...]) -> tuple[ResultKind, ...]:
        """Validator: refuse result kinds that have an on-off key of their own (rejection notes,
        assessments).
        """
        refuse(
            (ResultKind.REJECTION in results, "rejection notes go to peers with iocm = true"),
            (ResultKind.ASSESSMENT in results, "assessments go to peers with assessments = true"),
            (ResultKind.PROGRAM_SR in results, "reports of programs go to peers with sr: leave it out"),
        )
        return results

    @field_validator("deidentify")
    @classmethod
    def _shows_no_source(cls, deidentify: bool, info: ValidationInfo) -> bool:
        """Validator: refuse a de-identified peer whose results could show the uncleaned image or name the
        patient.
        """
        results = info.data.get("results", ())
        wrong = ", ".join(kind.value for kind in results if kind not in DEIDENTIFIED_KINDS)
        why = f"{wrong} may identify the patient" if wrong else "cleaned is missing"
        if deidentify:
            refuse(
                (
                    wrong or ResultKind.CLEANED not in results,
                    f'{why}: set results = ["cleaned", "seg", "sr"], or fewer with cleaned',
                ),
                (info.data.get("assessments"), "an assessment names the patient: leave out assessments"),
                (
                    info.data.get("charset") == "source",
                    "de-identified results are in UTF-8 always: leave out charset",
                ),
                (
                    any(info.data.get(key) for key in ("viewer", "seg_geometry"))
                    or info.data.get("outlines") != "seg",
                    "de-identified results have one form: leave out viewer, outlines and seg_geometry",
                ),
            )
        return deidentify

    @model_validator(mode="after")
    def _keys_fit_together(self) -> Self:
        """Validator: refuse a peer whose keys contradict each other, or that lacks a key that its tasks
        need.
        """
        refuse(
            (
                self.outlines == "sr" and ResultKind.SR not in self.results,
                'outlines = "sr" is for peers with "sr" in results',
            ),
        )
        self._check_receiving()
        self._check_sending()
        self._check_querying()
        self._check_withdrawal()
        self._check_commitment()
        return self

    def _check_receiving(self) -> None:
        """Raise ValueError if the peer may receive and it is not said where."""
        receives, missing = "receive" in self.may, self.missing_of_address()
        refuse(
            (
                receives and self._is_in("by_address") and missing,
                f"{missing}: a peer that may receive needs host and port",
            ),
            (receives and self.by_http and not self.url, f"transport {self.transport} needs url"),
        )

    def _check_sending(self) -> None:
        """Raise ValueError if a key is for peers that send, and this one may not."""
        sends = "send" in self.may
        refuse(
            (self.mpps and not sends, 'mpps is for peers with may = ["send"]'),
            (self.silent_hours and not sends, 'silent_hours is for peers with may = ["send"]'),
        )

    def _check_querying(self) -> None:
        """Raise ValueError if it is not said where to query the peer, or its objects cannot come."""
        if "query" not in self.may:
            refuse((self.missing_days, 'missing_days is for peers with may = ["query"]'))
        elif self.transport == "dicomweb":
            refuse((not self.url, "transport dicomweb needs url"))
        else:
            host, port, _ = self.address_of("query")
            by_move = self.retrieve == "move" and self.transport in ("dimse", "orthanc")
            refuse(
                (
                    not (host and port),
                    'a peer that may be queried needs host and port, or transport = "dicomweb"',
                ),
                (
                    by_move and "send" not in self.may,
                    'objects of a C-MOVE come to our listener: add "send" to may, or use "get"',
                ),
            )

    def _check_withdrawal(self) -> None:
        """Raise ValueError if results cannot be deleted at the peer, or would be withdrawn twice."""
        deletes = self.withdraw == "delete"
        refuse(
            (
                deletes and not ("receive" in self.may and self.by_http),
                'withdraw = "delete" is for peers that receive by transport "orthanc", "dicomweb" or '
                '"fhir": neither DICOM\'s own network nor HL7 v2 has a request to delete',
            ),
            (deletes and self.iocm, 'give iocm = true or withdraw = "delete", not both'),
        )

    def _check_commitment(self) -> None:
        """Raise ValueError if storage commitment is asked of, or promised to, a peer that cannot have it."""
        host, port, _ = self.address_of("commitment")
        reported_at = "send" in self.may and host and port
        refuse(
            (
                self.confirm == "commitment" and not ("receive" in self.may and self.transport == "dimse"),
                'confirm = "commitment" is for peers that receive by transport = "dimse"',
            ),
            (
                self.commit_after and not reported_at,
                'commit_after is for peers with may = ["send"], and with host and port, or commitment_host '
                "and commitment_port, at which they take our report",
            ),
        )

    def address_of(self, service: PeerService) -> tuple[str, int | None, str]:
        """Return host ("" if missing), port (None if missing) and AE title of the peer for one of its
        services.
        """
        host, port, ae_title = {
            "storage": (None, None, None),
            "query": (self.query_host, self.query_port, self.query_ae_title),
            "commitment": (self.commitment_host, self.commitment_port, self.commitment_ae_title),
        }[service]
        return host or self.host, port or self.port, ae_title or self.ae_title

    @property
    def form(self) -> ResultForm:
        """How the peer wants its results."""
        names = frozenset(self.results) if ResultKind.KEY_OBJECTS in self.results else frozenset()
        return ResultForm(self.charset, self.viewer, self.outlines, self.seg_geometry, names)

    @property
    def by_http(self) -> bool:
        """Whether the peer is reached by a base URL; other peers are reached by host and port."""
        return self._is_in("by_url")

    @property
    def acknowledges(self) -> bool:
        """Whether the peer's acknowledgement of a result is final, so that no query has to confirm that the
        result arrived.
        """
        return self._is_in("takes_over")

    def takes(self, kind: ResultKind) -> bool:
        """Return whether the peer takes results of this kind; the report of a program goes where reports go
        as objects.
        """
        if kind is ResultKind.PROGRAM_SR:
            return ResultKind.SR in self.results and not self._is_in("reads_reports")
        return kind in self.results

    def _is_in(self, transports: str) -> bool:
        """Return whether the peer's transport is listed in the class variable named ``transports`` of any
        settings class.
        """
        return any(self.transport in getattr(kind, transports, ()) for kind in type(self).__mro__)

    @property
    def retrieve_seconds(self) -> float:
        """The maximum number of seconds that the retrieval of one study from the peer may take."""
        return 60 * self.retrieve_minutes

    @property
    def answers_queries(self) -> bool:
        """Whether the peer can be queried for the results sent to it, to confirm that they arrived."""
        return self.confirm == "query" or (self.confirm == "commitment" and self.commitment_else == "query")

    @property
    def reporting_titles(self) -> tuple[str, ...]:
        """AE titles that may send storage commitment reports for this peer; none if the node requests
        none.
        """
        return self._commitment_titles if self.confirm == "commitment" else ()

    @property
    def requesting_titles(self) -> tuple[str, ...]:
        """AE titles under which the peer may request storage commitment from this node; none if it may
        not.
        """
        return self._commitment_titles if self.commit_after else ()

    @property
    def _commitment_titles(self) -> tuple[str, ...]:
        """The AE titles under which the peer may send storage commitment messages."""
        return tuple(filter(None, (self.ae_title, self.commitment_ae_title)))

    @property
    def titles(self) -> tuple[str, ...]:
        """All AE titles under which the peer may open an association to this node."""
        titles = self.ae_title, self.query_ae_title, self.commitment_ae_title
        return tuple(dict.fromkeys(title.strip() for title in titles if title))

    @property
    def is_called(self) -> bool:
        """Whether the node opens connections to the peer (to send, query, or report storage commitment)."""
        return bool({"receive", "query"} & {*self.may} or self.commit_after)

    def missing_of_address(self) -> str:
        """What an association to this peer lacks, such as ``port is missing``; "" if host and port are
        set.
        """
        missing = [key for key in ("host", "port") if not getattr(self, key)]
        return f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing" if missing else ""
