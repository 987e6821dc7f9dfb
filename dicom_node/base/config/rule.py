"""``[[rules]]``: the settings of a rule, its conditions and what its results change."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    field_validator,
    model_validator,
)

from dicom_node.base.config.section import MODALITY, Name, Section, refuse
from dicom_node.base.connectors import installed
from dicom_node.base.lifecycle import CONSOLE_NAME, ResultKind

Patterns = tuple[Annotated[str, Field(min_length=1)], ...]


def matches(pattern: str, value: str) -> bool:
    """Return whether ``value`` matches a shell pattern with * and ?, ignoring case. ``[`` is an ordinary
    character, because descriptions contain brackets.
    """
    return fnmatchcase(value.casefold(), pattern.casefold().replace("[", "[[]"))


class Conditions(Section):
    """``when`` of a rule: all conditions must hold. Texts are patterns with * and ?, case ignored."""

    modality: tuple[Annotated[str, Field(pattern=MODALITY)], ...] = ()
    """Modality (0008,0060), a code in capitals: one or a list."""
    body_part: Patterns = ()
    """Body Part Examined (0018,0015)."""
    view: Patterns = ()
    """View Position (0018,5101)."""
    calling_ae: Patterns = ()
    """AE title that sent the object."""
    called_ae: Patterns = ()
    """AE title of ours that it called."""
    station: Patterns = ()
    """Station Name (0008,1010)."""
    study_description: Patterns = ()
    """Study Description (0008,1030)."""
    series_description: Patterns = ()
    """Series Description (0008,103E)."""

    @field_validator("*", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        """Validator: turn a single text into a tuple of one."""
        return (value,) if isinstance(value, str) else value


def _condition(text: str) -> str:
    """Validator: return ``text`` if it may be a condition on results. Raises ValueError with the remedy."""
    refuse(
        (
            not text.strip() or text == SUSPECTED,
            f'write "FINDING{SUSPECTED}", a call as reports print it, {" or ".join(map(repr, QUALITY))}',
        ),
        (not text.isprintable(), "has signs that no finding has"),
    )
    return " ".join(text.split())


NOT_ASSESSED = "not assessed"
QUALITY = ("withheld", NOT_ASSESSED)
SUSPECTED = " suspected"


class ResultSettings(Section):
    """``then`` of a rule: what is done in addition if the results meet a condition. It never takes anything
    away.
    """

    when: Annotated[str, Field(max_length=80), AfterValidator(_condition)]
    """ "FINDING suspected", or a call such as "Heart enlarged" and "Look at it first": as the report names
    them, * and ? as above; "not assessed": the AI did not run; "withheld": nothing may be sent, a person
    rejected it or text may be left."""
    send_to: tuple[Name, ...] = ()
    """Further peers that get the results of the job."""
    notify: tuple[Name, ...] = ()
    """Notifications that say it, by name; once a person accepted the results where the rule asks for that."""
    priority: Annotated[Literal["routine", "stat"], BeforeValidator(lambda given: str(given).lower())] = (
        "routine"
    )
    """STAT: deliveries of the study go before others; every fourth is the one that has waited longest."""

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        """Validator: refuse an entry of ``then`` without an effect."""
        goes = self.send_to or self.priority == "stat"
        refuse(
            (self.when == "withheld" and goes, "what is withheld is sent nowhere: give notify only"),
            (not goes and not self.notify, "does nothing: give send_to, notify or priority"),
        )
        return self

    def is_met(self, occasions: Iterable[str]) -> bool:
        """Return whether the results of a job meet the condition.

        ``occasions``: "NAME suspected" of each suspected finding, the names of calls, "not assessed".
        """
        return any(matches(self.when, occasion) for occasion in occasions)

    def __str__(self) -> str:
        """Return the condition and what follows from it, on one line."""
        does = [f"to {', '.join(self.send_to)}"] if self.send_to else []
        does += [f"notify {', '.join(self.notify)}"] if self.notify else []
        does += ["STAT"] if self.priority == "stat" else []
        return f"{self.when}: {', '.join(does)}"


RUN_HERE: Final = frozenset({"command", "container"})
"""Pipelines that run a program of others on this machine."""
PROGRAMS: Final = RUN_HERE | {*installed("answers")}
"""Pipelines that read files themselves, here or on a server of others: a rule gives them objects of any SOP
class, and only the configuration files may have such rules."""


class RuleSettings(Section):
    """``[[rules]]``: which pipeline for which study, and where its results go."""

    name: Name
    """Short name; results and events say it."""
    when: Conditions = Conditions()
    """Required: one or more conditions on single images; modality = "*": every image of a source class. To
    `command` and `container` objects of any class are given; objects that are no images (SEG, RTSTRUCT, SR …)
    only where modality names theirs."""
    pipeline: str
    """Name of a pipeline (`ai-pipeline pipelines` lists the installed ones)."""
    options: Mapping[str, Any] = Field(default_factory=dict)
    """Options of the pipeline, such as policy = "research"."""
    send_to: tuple[Name, ...]
    """Peers that get the results; each must be allowed to receive. [] (results are seen at the console
    alone) only in a rule that takes uploads, by secondary_captures_from."""
    forward: tuple[Name, ...] = ()
    """Peers that get the received images that the rule takes, unchanged, once the study is complete, and what
    the same device sent with them that is no image; never the one that sent them."""
    priority: Literal["stat", "routine", "low"] = "routine"
    """STAT studies overtake others; a C-STORE with priority HIGH is STAT too."""
    max_study_age_days: NonNegativeFloat = 7
    """Older studies are held for a person (a migration must not start a million jobs), except the first 20 of
    a new node, which are tests. 0: no limit."""
    secondary_captures_from: tuple[Name, ...] = ()
    """Peers whose secondary captures count as images (a frame grabber; "console": uploaded pictures)."""
    tell_pacs_refusals: bool = False
    """Send a short report also when the pipeline does not apply. One is always sent of a film that it refuses
    and that may be of a gravely ill patient."""
    priors: Name | None = None
    """A peer that may be queried: up to two earlier studies of the patient (the same body part and modality,
    of five years) are fetched from it and analysed by this rule, for comparison. Their results are sent
    nowhere."""
    no_call: tuple[ResultKind, ...] | None = None
    """Kinds of results of images without a call (nothing suspected, no enlarged heart, no doubt about the
    film), as far as peers take them. Left out: the report and cleaned images; of mere cleaning the cleaned
    images, or the report where a peer does not take these."""
    assess_first: bool = False
    """Results wait until a person has accepted them (console, studies accept); rejected ones never leave."""
    compare: bool = False
    """Compare with the same pipeline's results for earlier studies of the patient on this node."""
    then: tuple[ResultSettings, ...] = Field((), max_length=50)
    """What findings, or none, change: a list of { when = …, send_to = […], notify = […], priority = … }."""
    entered: int = 0
    """The node itself sets it, for rules that a person entered."""

    @property
    def runs_program(self) -> bool:
        """Whether the rule's pipeline is a program, which gets objects of any SOP class."""
        return self.pipeline in PROGRAMS

    def gives_to_program(self, modality: str, *, is_image: bool) -> bool:
        """Whether the rule may give an object of this Modality (0008,0060) to a program.

        Of what is no image (``is_image``) only if the rule names the modality without a pattern: such an
        object starts a job, and every workstation makes some.
        """
        wanted = self.when.modality
        if not self.runs_program:
            return False
        if not is_image:
            return modality in wanted
        return not wanted or any(matches(pattern, modality) for pattern in wanted)

    @property
    def is_seen_by_nobody(self) -> bool:
        """Whether the results go to no peer, and are of no upload, whose user sees them at the console."""
        return not self.send_to and CONSOLE_NAME not in self.secondary_captures_from

    @property
    def receivers(self) -> tuple[str, ...]:
        """Every peer that may get the rule's results: ``send_to``, and the peers of ``then``."""
        return tuple(dict.fromkeys((*self.send_to, *(name for one in self.then for name in one.send_to))))
