"""``ai-pipeline evaluate legible``: can burned-in text still be read after the node has cleaned a picture?

Names, dates and numbers are written onto unseen frames in fonts and layouts that no network was trained on,
cleaned exactly as the node cleans, and read by two OCR engines. For each engine only tokens count that it
could read before. A token is left if the whole of it or one of its words can be read at its place afterwards.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ai_pipeline.burnin.annotation.kinds import CleaningPolicy
from ai_pipeline.burnin.annotation.pixels import Box, Mask, Picture, index_of
from ai_pipeline.burnin.cleaning import CleaningResult, clean
from ai_pipeline.burnin.tools import Tools, shared_tools
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.decode import PictureImage
from ai_pipeline.images.header import picture_header
from ai_training.progress import Report
from ai_training.ultrasound.legible.ocr import OcrEngine, OcrLine, engines
from ai_training.ultrasound.legible.tokens import (
    SAME,
    Token,
    drawn_words,
    identity_tokens,
    is_read,
    leaks,
    level_crop,
    similarity,
)
from ai_training.ultrasound.marks import snapshots
from ai_training.ultrasound.marks.maskers import MODALITY
from ai_training.ultrasound.overlays import HELD_OUT, BurnIn, CleanFrame, burn_in, clean_frames

SEED = 179424673
COVERED = 0.9
"""Share of a text's pixels in the mask from which it is gone, whoever may read it."""


@dataclass(frozen=True, slots=True)
class LegibleTask:
    """The settings of a worker. ``report``: the folder for pictures of failures."""

    data: Path
    split: str
    policy: CleaningPolicy
    models_dir: Path | None
    report: Path | None


@dataclass(frozen=True, slots=True)
class Leak:
    """A text that an engine read in a cleaned picture. The generator invented these texts."""

    engine: str
    text: str
    box: Box


@dataclass(frozen=True, slots=True)
class EngineCount:
    """The counts of one engine on one picture: tokens it could read before, tokens it still can, and other
    texts.

    ``elsewhere``: strings of the overlay at any place. ``invented``: strings that the engine reads neither in
    the clean picture nor in the overlay (speckle).
    """

    before: int
    left: tuple[Leak, ...] = ()
    elsewhere: tuple[Leak, ...] = ()
    invented: int = 0


@dataclass(frozen=True, slots=True)
class LegibleOutcome:
    """The outcome for one picture. ``released`` is False if the node returned no image."""

    number: int
    frame: str
    tokens: int
    released: bool
    seconds: float
    reason: str = ""
    counts: dict[str, EngineCount] = field(default_factory=dict)
    texts: int = 0
    uncovered: int = 0
    widened: int = 0
    blacked_out: int = 0
    changed_outside: int = 0
    filled: float = 0.0


def outcomes(job: LegibleTask, pictures: range, workers: int, report: Report) -> Iterator[LegibleOutcome]:
    """Evaluate the pictures with these numbers in ``workers`` processes. Raises DataMissing."""
    begin = time.monotonic()
    if workers <= 1:
        test = LegibilityTest(job)
        for count, number in enumerate(pictures, start=1):
            yield test.picture(number)
            report(count / len(pictures), _progress(count, len(pictures), begin))
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _prepare, (job,)) as pool:
        for count, outcome in enumerate(pool.map(_outcome_of, pictures), start=1):
            yield outcome
            report(count / len(pictures), _progress(count, len(pictures), begin))


class LegibilityTest:
    """Burns text into pictures, cleans them and reads them. One per process."""

    def __init__(
        self, job: LegibleTask, tools: Tools | None = None, readers: Sequence[OcrEngine] | None = None
    ) -> None:
        self._job = job
        self._frames = clean_frames(job.split)
        self._tools = tools or shared_tools(job.models_dir)
        self._engines = tuple(readers) if readers is not None else engines()

    def picture(self, number: int) -> LegibleOutcome:
        """The outcome of picture ``number``: the same in every run."""
        frame, burned, tokens = burned_picture(self._job.data, self._frames, number)
        name = f"{frame.source}/{frame.file}"
        began = time.perf_counter()
        try:
            cleaned = self._clean(burned.image, number)
        except CleaningFailed as failure:
            seconds = time.perf_counter() - began
            self._show(number, "quarantined", burned, None, ())
            return LegibleOutcome(
                number, name, len(tokens), released=False, seconds=seconds, reason=str(failure)
            )
        seconds = time.perf_counter() - began
        return self.outcome(number, name, burned, tokens, cleaned, seconds)

    def outcome(
        self,
        number: int,
        name: str,
        burned: BurnIn,
        tokens: tuple[Token, ...],
        cleaned: CleaningResult,
        seconds: float,
    ) -> LegibleOutcome:
        """The outcome for the text that is left in ``cleaned``, which the node made of ``burned`` in
        ``seconds``.
        """
        picture, mask = np.asarray(cleaned.image.frames[0], np.uint8), np.asarray(cleaned.mask.frames[0]) > 0
        changed = (picture != burned.image).any(axis=2) & ~mask
        counts = {engine.name: self._read(engine, burned, tokens, picture) for engine in self._engines}
        leaks_ = tuple(leak for count in counts.values() for leak in (*count.left, *count.elsewhere))
        uncovered = uncovered_texts(burned, tokens, mask)
        if leaks_ or uncovered or changed.any():
            self._show(number, "left" if leaks_ else "uncovered", burned, (picture, mask), leaks_)
        return LegibleOutcome(
            number=number,
            frame=name,
            tokens=len(tokens),
            released=True,
            seconds=seconds,
            counts=counts,
            texts=len({token.owner for token in tokens}),
            uncovered=uncovered,
            widened=cleaned.widened,
            blacked_out=cleaned.blacked_out,
            changed_outside=int(changed.sum()),
            filled=float(mask.mean()),
        )

    def _clean(self, picture: Picture, number: int) -> CleaningResult:
        header = picture_header(picture, MODALITY, lossy=False)
        image = PictureImage(f"2.25.{number + 1}", "2.25.1", header, picture)
        return clean(image, lambda _share, _what: None, policy=self._job.policy, tools=self._tools)

    def _read(
        self, engine: OcrEngine, burned: BurnIn, tokens: tuple[Token, ...], cleaned: Picture
    ) -> EngineCount:
        before = engine.lines([level_crop(burned.image, token.corners) for token in tokens])
        legible = [token for token, texts in zip(tokens, before, strict=True) if is_read(token, texts)]
        after = engine.lines([level_crop(cleaned, token.corners) for token in legible])
        left = tuple(
            Leak(engine.name, token.text, _bounds(token))
            for token, texts in zip(legible, after, strict=True)
            if leaks(token, texts)
        )
        elsewhere, invented = self._elsewhere(engine, burned, cleaned)
        return EngineCount(len(legible), left, elsewhere, invented)

    def _elsewhere(self, engine: OcrEngine, burned: BurnIn, cleaned: Picture) -> tuple[tuple[Leak, ...], int]:
        """What is read anywhere in the cleaned picture and was not there before anything was drawn."""
        strings = engine.everything(cleaned)
        if not strings:
            return (), 0
        own = engine.everything(burned.clean)
        fresh = [string for string in strings if not any(_overlap(string, other) for other in own)]
        words = drawn_words(burned, everything=self._job.policy is CleaningPolicy.RESEARCH)
        drawn = [string for string in fresh if any(similarity(word, string.text) >= SAME for word in words)]
        return tuple(Leak(engine.name, s.text, s.box) for s in drawn), len(fresh) - len(drawn)

    def _show(
        self,
        number: int,
        what: str,
        burned: BurnIn,
        cleaned: tuple[Picture, Mask] | None,
        found: tuple[Leak, ...],
    ) -> None:
        if self._job.report is None:
            return
        shown = [snapshots.titled(burned.image, "before")]
        if cleaned is not None:
            picture, mask = cleaned
            boxes = np.zeros(mask.shape, np.bool_)
            for leak in found:
                boxes[index_of(leak.box)] = True
            outlines = [(mask, snapshots.OUTLINE), (boxes, snapshots.TARGET)]
            shown += [
                snapshots.titled(snapshots.outlined(picture, outlines, 1), "mask, what is read"),
                snapshots.titled(picture, "after"),
            ]
        snapshots.save(self._job.report / f"{what}-{number:04}.png", snapshots.beside(shown))


def burned_picture(
    data: Path, frames: Sequence[CleanFrame], number: int
) -> tuple[CleanFrame, BurnIn, tuple[Token, ...]]:
    """Picture ``number``: the next frame in turn, with the first random overlay that holds an identity."""
    order = np.random.default_rng(SEED).permutation(len(frames))
    frame = frames[order[number % len(frames)]]
    part = frame.read(data)
    attempt = 0
    while True:
        burned = burn_in(part, HELD_OUT, (SEED, number, attempt))
        tokens = identity_tokens(burned)
        if tokens:
            return frame, burned, tokens
        attempt += 1


def uncovered_texts(burned: BurnIn, tokens: tuple[Token, ...], mask: Mask) -> int:
    """The number of lines with an identity of which less than :data:`COVERED` lies in the mask."""
    size = len(burned.objects) + 1
    pixels = np.bincount(burned.owners.ravel(), minlength=size)
    inside = np.bincount(burned.owners[mask].ravel(), minlength=size)
    owners = {token.owner for token in tokens}
    return sum(bool(inside[owner] < COVERED * pixels[owner]) for owner in owners)


_test: LegibilityTest | None = None


def _prepare(job: LegibleTask) -> None:
    global _test  # noqa: PLW0603  # the pool's way to give a process something to keep
    _test = LegibilityTest(job)


def _outcome_of(number: int) -> LegibleOutcome:
    if _test is None:
        raise RuntimeError("the process was not prepared")
    return _test.picture(number)


def _bounds(token: Token) -> Box:
    (left, top), (right, bottom) = token.corners.min(axis=0), token.corners.max(axis=0)
    return int(left), int(top), int(right) + 1, int(bottom) + 1


def _overlap(one: OcrLine, other: OcrLine) -> bool:
    width = min(one.box[2], other.box[2]) - max(one.box[0], other.box[0])
    height = min(one.box[3], other.box[3]) - max(one.box[1], other.box[1])
    return width > 0 and height > 0


def _progress(done: int, pictures: int, begin: float) -> str:
    line = f"picture {done} of {pictures}"
    if done % 25 and done != pictures:
        return line
    return f"{line}, {(time.monotonic() - begin) / done:.1f} s each\n"
