"""The interface of a pipeline: the calls of the node, and the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, runtime_checkable

from ai_pipeline.contract.card import PipelineCard
from ai_pipeline.contract.findings import (
    DerivedImage,
    Finding,
    JudgedView,
    Measurement,
    ModelRef,
    QualityNote,
    Reading,
    Refusal,
    Scores,
    SourceImage,
)


@dataclass(frozen=True, slots=True)
class Accept:
    """The pipeline will analyse the images ``source_uids``. ``refused``: the images that it will not analyse;
    the node counts them.
    """

    source_uids: tuple[str, ...]
    refused: tuple[Refusal, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Refuse:
    """The pipeline does not apply; ``reason`` is one sentence, without PHI; ``refused`` as in Accept."""

    reason: str
    refused: tuple[Refusal, ...] = field(default=(), compare=False)


class Progress(Protocol):
    """A function called with the share done, 0 to 1, and a word for a person; it may raise to
    cancel the run.
    """

    def __call__(self, share: float, what: str) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class PipelineResult:
    """The results of a pipeline. ``timings`` in seconds by stage (``decode``, ``model``, ``total`` …).

    ``scores`` are for the node's counts, from pipelines whose cards have labels. ``readings`` are for the
    access-controlled record alone. ``drawn_on``: the image on which pictures are drawn: the source, or only
    its ``cleaned`` image.
    """

    findings: tuple[Finding, ...] = ()
    images: tuple[DerivedImage, ...] = ()
    quality: tuple[QualityNote, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    models: tuple[ModelRef, ...] = ()
    scores: tuple[Scores, ...] = ()
    readings: tuple[Reading, ...] = field(default=(), repr=False)
    measurements: tuple[Measurement, ...] = ()
    views: tuple[JudgedView, ...] = ()
    drawn_on: Literal["source", "cleaned"] = "source"

    @classmethod
    def joined(cls, results: Sequence[PipelineResult]) -> PipelineResult:
        """Join the results of single images: notes and models are listed once, seconds are added up."""
        whole: dict[str, Any] = {
            one.name: tuple(chain.from_iterable(getattr(result, one.name) for result in results))
            for one in fields(cls)
            if one.default == ()
        }
        seconds = Counter[str]()
        for result in results:
            seconds.update(result.timings)
        on_cleaned = any(result.drawn_on == "cleaned" for result in results)
        once = {name: tuple(dict.fromkeys(whole[name])) for name in ("quality", "models")}
        return cls(**whole | once, timings=dict(seconds), drawn_on="cleaned" if on_cleaned else "source")


class Pipeline(Protocol):
    """Turns images into findings. Constructed once per process; ``warm_up`` loads the models.

    ``options`` come from a rule; ``card.options`` reads and checks them.
    """

    card: PipelineCard

    def warm_up(self) -> None: ...
    def models(self) -> tuple[ModelRef, ...]: ...
    def accepts(
        self, images: Sequence[SourceImage], options: Mapping[str, object] = MappingProxyType({})
    ) -> Accept | Refuse: ...
    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult: ...


@runtime_checkable
class ChecksOptions(Protocol):
    """A pipeline that checks its options against its model or this machine, which its card cannot do."""

    def option_faults(self, options: Mapping[str, object]) -> Mapping[str, str]:
        """Faults in ``options`` beyond the card's own checks, by option, as remedies."""
        ...


@runtime_checkable
class ExchangesModels(Protocol):
    """A pipeline with models that a site may exchange (``card.slots``)."""

    @staticmethod
    def try_out(card_file: Path, seconds: int) -> None:
        """Run the model of a card on pictures. Raises CardError where it does not run in ``seconds``."""
        ...
