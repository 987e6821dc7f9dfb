"""``ai-pipeline evaluate legible``: burn texts in, clean as the node does, and try to read them again.

Of an engine count the tokens that it could read before. A token is left if the whole of it or one of its
words can be read at its place afterwards."""

from __future__ import annotations

import csv
import io
import itertools
import multiprocessing
import os
import re
import shutil
import subprocess
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from ai_pipeline.burnin.cleaning import CleaningResult, clean
from ai_pipeline.burnin.find.annotation import Box, CleaningPolicy, Mask, Picture, brightest, index_of
from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.burnin.find.text import TextBox, model_files, working_scale
from ai_pipeline.burnin.tools import shared_tools
from ai_pipeline.contract import Meaning
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.decode import PictureImage
from ai_pipeline.images.header import picture_header
from ai_training.base import Report
from ai_training.metrics import overlap
from ai_training.ultrasound.overlays.burning import BurnIn, burn_in
from ai_training.ultrasound.overlays.canvas import MarkClass
from ai_training.ultrasound.overlays.hands import HELD_OUT
from ai_training.ultrasound.overlays.scenes import CleanFrame, clean_frames
from ai_training.ultrasound.removal import MODALITY

RAPIDOCR, TESSERACT = "rapidocr", "tesseract"
LEAST_SCORE, LEAST_CONFIDENCE = 0.5, 60.0
"""Confidence from which a string somewhere in a picture counts: rapidocr's (0–1), Tesseract's (0–100)."""


@dataclass(frozen=True, slots=True)
class OcrLine:
    """One text that an OCR engine read somewhere in a picture; ``text``: its letters and digits in capitals
    (:func:`folded`).
    """

    text: str
    box: Box


def tesseract_version() -> str | None:
    """The version of the installed Tesseract; None if it is not installed."""
    program = shutil.which("tesseract")
    if program is None:
        return None
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=True)
    return (done.stdout or done.stderr).split("\n")[0].removeprefix("tesseract ").strip()


class RapidOcr:
    """The OCR engine rapidocr with the networks and settings of its package; its log is silenced."""

    name = RAPIDOCR

    def __init__(self, threads: int = 1) -> None:
        """Load the engine. ``threads``: for one inference."""
        from rapidocr import RapidOCR

        detector, recogniser = model_files()
        self._ocr = RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.use_cls": False,
                "Global.text_score": 0.0,
                "Det.model_path": str(detector),
                "Rec.model_path": str(recogniser),
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )

    def lines(self, crops: Sequence[Picture]) -> list[tuple[str, ...]]:
        """The folded text of each horizontal crop, in four views: as it is, upside down, and both with more
        contrast.
        """
        how = {"use_det": False, "use_rec": True, "use_cls": False}
        return [
            tuple(folded((self._ocr(view, **how).txts or ("",))[0]) for view in views(crop)) for crop in crops
        ]

    def everything(self, picture: Picture) -> list[OcrLine]:
        """All texts in a whole picture that have at least :data:`SHORTEST` letters and digits."""
        factor = working_scale(picture)
        large = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        result = self._ocr(np.ascontiguousarray(large), use_det=True, use_rec=True, use_cls=False)
        if result.boxes is None or result.txts is None:
            return []
        return [
            OcrLine(folded(text), _box(np.floor(low), np.ceil(high)))
            for corners, text, score in zip(result.boxes, result.txts, result.scores, strict=True)
            for low, high in [_outer_corners(np.asarray(corners, np.float32) / factor)]
            if score >= LEAST_SCORE and len(folded(text)) >= SHORTEST
        ]


class Tesseract:
    """The OCR program ``tesseract`` with its English data, with the methods of :class:`RapidOcr`; one process
    per call.
    """

    name = TESSERACT

    def lines(self, crops: Sequence[Picture]) -> list[tuple[str, ...]]:
        """The folded text of each horizontal crop, in four views."""
        cuts = [_for_tesseract(view) for crop in crops for view in views(crop)]
        if not cuts:
            return []
        texts = map(folded, _run(cuts, "7", "txt").split("\f"))
        return [tuple(itertools.islice(texts, len(cuts) // len(crops))) for _ in crops]

    def everything(self, picture: Picture) -> list[OcrLine]:
        """All texts in a whole picture that have at least :data:`SHORTEST` letters and digits."""
        factor = working_scale(picture)
        large = cv2.resize(brightest(picture), None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        table = csv.DictReader(
            io.StringIO(_run([np.asarray(large, np.uint8)], "11", "tsv")),
            delimiter="\t",
            quoting=csv.QUOTE_NONE,
        )
        return [
            OcrLine(folded(row["text"]), (int(left), int(top), int(left + wide) + 1, int(top + high) + 1))
            for row in table
            for left, top, wide, high in [
                [int(row[key]) / factor for key in ("left", "top", "width", "height")]
            ]
            if float(row["conf"]) >= LEAST_CONFIDENCE and len(folded(row["text"] or "")) >= SHORTEST
        ]


OcrEngine = RapidOcr | Tesseract
_rapid = cache(RapidOcr)


def engines() -> tuple[OcrEngine, ...]:
    """The OCR engines on this machine; rapidocr is always one of them."""
    return (_rapid(), Tesseract()) if tesseract_version() else (_rapid(),)


def tesseract_line(picture: Picture, box: TextBox) -> Line:
    """Read the line in ``box`` by Tesseract, with the mean confidence of the words, 0 to 1."""
    crop = _for_tesseract(picture[index_of(box.box)])
    table = csv.DictReader(io.StringIO(_run([crop], "7", "tsv")), delimiter="\t", quoting=csv.QUOTE_NONE)
    words = [(row["text"] or "", float(row["conf"]) / 100) for row in table if float(row["conf"]) >= 0]
    text = " ".join(word for word, _ in words).strip()
    sure = sum(share for _, share in words) / max(1, len(words))
    return Line(text, sure, legible=bool(text))


def views(crop: Picture) -> tuple[Picture, ...]:
    """Copies of a horizontal line: as it is and upside down, and both with more local contrast."""
    clahe = cv2.createCLAHE(clipLimit=3.0, tileGridSize=(2, 2))
    grey = np.asarray(clahe.apply(np.ascontiguousarray(brightest(crop))), np.uint8)
    contrasty = np.repeat(grey[:, :, None], 3, axis=2)
    return tuple(
        np.ascontiguousarray(view) for view in (crop, crop[::-1, ::-1], contrasty, contrasty[::-1, ::-1])
    )


def _for_tesseract(crop: Picture) -> Picture:
    """Convert a picture to what Tesseract reads best: dark letters on light ground, large, with a margin."""
    # Tesseract was made for 300 dpi.
    factor = 40 / max(1, crop.shape[0])
    grey = cv2.resize(brightest(crop), None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    light = np.asarray(255 - grey, np.uint8)
    return np.asarray(cv2.copyMakeBorder(light, 8, 8, 8, 8, cv2.BORDER_REPLICATE), np.uint8)


def _run(pictures: Sequence[Picture], layout: str, output: str) -> str:
    """Run Tesseract on pictures; returns its output. ``layout``: page segmentation mode; ``output``:
    format.
    """
    with tempfile.TemporaryDirectory() as folder:
        names = [str(Path(folder) / f"{number}.png") for number in range(len(pictures))]
        for name, picture in zip(names, pictures, strict=True):
            cv2.imwrite(name, picture)
        listing = Path(folder) / "list.txt"
        listing.write_text("\n".join(names))
        command = ["tesseract", str(listing), "stdout", "--psm", layout, "-l", "eng", "--dpi", "150", output]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
            env=os.environ | {"OMP_THREAD_LIMIT": "1"},
        )
    return done.stdout


SAME = 0.8
"""Share of a token's characters that must be read, in their order, for the token to count as legible."""
SHORTEST = 3
"""Letters and digits that a word has at least, to be looked for by itself."""
SEPARATORS = re.compile(r" \| | / |  -  ")
KEYS = frozenset({"NAME", "SITE", "DATE", "DOB", "MRN", "ACC", "MRS", "FRAU", "MME"})
"""Words that announce a name, a date or a number and identify no one by themselves."""

Corners = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Token:
    """A name, date or number that identifies the (invented) patient in a test picture. ``text``: the whole
    text; ``words``: the parts that identify by themselves, in capitals without other signs (:func:`folded`);
    ``corners`` ``[4, 2]``: the line's rectangle; the first two run along the writing (possibly upside down);
    ``owner``: number of the drawn object.
    """

    text: str
    words: tuple[str, ...]
    corners: Corners
    owner: int


def identity_tokens(burned: BurnIn) -> tuple[Token, ...]:
    """All tokens in the picture that identify the patient, in the order of drawing."""
    found = []
    for number, thing in enumerate(burned.objects, start=1):
        if thing.kind is MarkClass.TEXT and thing.meaning is Meaning.IDENTITY and thing.text:
            own = burned.owners == number
            if own.any():
                corners = writing_corners(own)
                found += [
                    Token(folded(part), words_of(part), corners, number)
                    for part in SEPARATORS.split(thing.text)
                    if len(folded(part)) >= SHORTEST or not folded(part).isascii()
                ]
    return tuple(found)


def folded(text: str) -> str:
    """Return the letters and digits of ``text`` alone, in capitals: OCR engines differ in the other signs."""
    return "".join(
        character for character in unicodedata.normalize("NFKC", text).upper() if character.isalnum()
    )


def words_of(text: str) -> tuple[str, ...]:
    """The words with at least :data:`SHORTEST` letters and digits, without the names of fields (``KEYS``)."""
    parts = (folded(part) for part in re.split(r"[^\w]+|_", unicodedata.normalize("NFKC", text)))
    return tuple(part for part in parts if len(part) >= SHORTEST and part not in KEYS)


def similarity(token: str, read: str) -> float:
    """How much of ``token`` occurs in ``read``: 1 − edits ÷ length; characters around it cost nothing."""
    if not token:
        return 0.0
    ends, letters = np.arange(len(read) + 1), np.array(list(read), np.str_)
    row = np.zeros_like(ends)
    for count, character in enumerate(token, start=1):
        best = np.minimum(row[1:] + 1, row[:-1] + (letters != character))
        row = np.minimum.accumulate(np.concatenate([[count], best]) - ends) + ends  # insertions
    return max(0.0, 1 - int(row.min()) / len(token))


def is_read(token: Token, texts: tuple[str, ...]) -> bool:
    """Whether the whole token occurs in one of the (folded) texts, with up to a fifth of its characters
    wrong.
    """
    return any(similarity(token.text, text) >= SAME for text in texts)


def leaks(token: Token, texts: tuple[str, ...]) -> bool:
    """Whether the token or one of its words occurs in one of the (folded) texts: a surname is enough."""
    return is_read(token, texts) or any(
        similarity(word, text) >= SAME for word in token.words for text in texts
    )


def writing_corners(own: npt.NDArray[np.bool_]) -> Corners:
    """The smallest rectangle around a text's pixels, the long side first: left to right or upside down."""
    places = np.argwhere(own)[:, ::-1].astype(np.float32)
    box = np.asarray(cv2.boxPoints(cv2.minAreaRect(places)), np.float32)
    rectangle, edge = box, box[1] - box[0]
    askew = abs(float(np.degrees(np.arctan2(edge[1], edge[0])))) % 90
    if min(askew, 90 - askew) < 8:  # a short word's smallest rectangle may stand askew though it is level
        (left, top), (right, bottom) = _outer_corners(places)
        rectangle = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float32)
    across, down = (float(np.linalg.norm(rectangle[i + 1] - rectangle[i])) for i in (0, 1))
    return rectangle if across >= down else np.roll(rectangle, -1, axis=0)


def level_crop(picture: npt.NDArray[np.uint8], corners: Corners) -> npt.NDArray[np.uint8]:
    """Cut the text between ``corners`` out of ``picture``, turned horizontal, with a margin."""
    across, down = (float(np.linalg.norm(corners[i + 1] - corners[i])) for i in (0, 1))
    room = max(2.0, 0.25 * min(across, down))
    along = (corners[1] - corners[0]) / max(across, 1e-6)
    below = (corners[2] - corners[1]) / max(down, 1e-6)
    wider = corners + room * np.stack([-along - below, along - below, along + below, -along + below])
    width, height = max(1, round(across + 2 * room)), max(1, round(down + 2 * room))
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    warp = cv2.getPerspectiveTransform(wider.astype(np.float32), target)
    cut = cv2.warpPerspective(
        picture, warp, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(cut, np.uint8)


def evaluate(
    data: Path,
    split: str,
    policy: str,
    models_dir: Path | None,
    pictures: range,
    workers: int,
    report: Report,
) -> dict[str, Any]:
    """Test whether cleaning leaves legible text: clean the test pictures with the numbers ``pictures`` in
    ``workers`` processes and read them; returns all figures. Raises DataMissing.
    """
    test, found = LegibilityTest(data, split, CleaningPolicy(policy), models_dir), []
    with (
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
        if workers > 1
        else nullcontext() as pool
    ):
        for outcome in (pool.map if pool else map)(test.picture, pictures):
            found.append(outcome)
            report(len(found) / len(pictures), f"picture {len(found)} of {len(pictures)}")
    return legibility_figures(found, split, policy)


def legibility_figures(found: Sequence[LegibleOutcome], split: str, policy: str) -> dict[str, Any]:
    """The figures of the outcomes ``found``; ``at_most`` is the exact one-sided upper 95 % bound (Clopper and
    Pearson). Rates are of pictures. Pictures of one frame have different overlays and count as independent.
    """
    released = [outcome for outcome in found if outcome.released]
    first, frames = min(outcome.number for outcome in found), len({outcome.frame for outcome in found})
    return {
        "set": (
            f"{len(found)} pictures from number {first} on, {frames} {split} frames, "
            f"style {HELD_OUT.name}, policy {policy}"
        ),
        "pictures": len(found),
        "distinct_frames": frames,
        "policy": policy,
        "tesseract": tesseract_version() or "not installed: nothing was read by it",
        **_read_figures(released),
        **_withheld_figures(found),
        **_mask_figures(released),
        "seconds": _seconds(found),
        "what": list(_read_strings(released)),
    }


def _read_figures(released: Sequence[LegibleOutcome]) -> dict[str, Any]:
    """What each engine that ran still reads, and any of them."""
    names = [name for name in (RAPIDOCR, TESSERACT) if any(name in outcome.counts for outcome in released)]
    return {
        "engines": {name: _engine(released, name) for name in names},
        "any_engine": rate([outcome for outcome in released if outcome.is_read], released),
    }


def _withheld_figures(found: Sequence[LegibleOutcome]) -> dict[str, Any]:
    """The pictures that the node keeps back, and how often for which reason."""
    return {
        "quarantined": rate([outcome for outcome in found if not outcome.released], found),
        "reasons": dict(Counter(outcome.reason for outcome in found if outcome.reason)),
    }


def _mask_figures(released: Sequence[LegibleOutcome]) -> dict[str, Any]:
    """What the masks of the released pictures cover, leave and change."""
    blacked_out = [outcome for outcome in released if outcome.blacked_out]
    widened = [outcome for outcome in released if outcome.widened]
    filled = float(np.mean([outcome.filled for outcome in released])) if released else float("nan")
    return {
        "blacked_out": rate(blacked_out, released),
        "widened": rate(widened, released),
        "identity_lines": sum(outcome.texts for outcome in released),
        "uncovered_lines": sum(outcome.uncovered for outcome in released),
        "pixels_changed_outside": sum(outcome.changed_outside for outcome in released),
        "filled_share": round(filled, 5),
    }


def _seconds(found: Sequence[LegibleOutcome]) -> dict[str, float]:
    """Percentiles of the time that a picture takes."""
    seconds = [outcome.seconds for outcome in found]
    return {f"p{rank}": round(float(np.percentile(seconds, rank)), 2) for rank in (50, 90, 99)}


def _read_strings(released: Sequence[LegibleOutcome]) -> Iterator[dict[str, Any]]:
    """Each text that an engine still reads: in which picture, in place of what was removed or elsewhere."""
    for outcome in released:
        for name, count in outcome.counts.items():
            for where, strings in (("in place", count.left), ("elsewhere", count.elsewhere)):
                for read in strings:
                    yield {
                        "picture": outcome.number,
                        "engine": name,
                        "where": where,
                        "text": read.text,
                        "box": list(read.box),
                    }


def rate(hits: Sequence[LegibleOutcome], among: Sequence[LegibleOutcome]) -> dict[str, Any]:
    """The number of ``hits``, the number of pictures ``among``, and the upper bound of the rate."""
    return {"pictures": len(hits), "of": len(among), "at_most": round(at_most(len(hits), len(among)), 5)}


def at_most(hits: int, among: int) -> float:
    """The exact one-sided upper 95 % bound of a rate: 0 of 500 means at most .006."""
    if among == 0 or hits >= among:
        return 1.0
    return float(beta.ppf(0.95, hits + 1, among - hits))


def _engine(released: Sequence[LegibleOutcome], name: str) -> dict[str, Any]:
    """The figures of the OCR engine ``name`` over the pictures that the node returned (``released``)."""
    counts = [outcome.counts[name] for outcome in released]
    readable = sum(count.before for count in counts)
    left = sum(len(count.left) for count in counts)
    return {
        "tokens": sum(outcome.tokens for outcome in released),
        "legible_before": readable,
        "left": left,
        "at_most": round(at_most(left, readable), 5),
        "pictures_with_any": rate(
            [o for o in released if o.counts[name].left or o.counts[name].elsewhere], released
        ),
        "elsewhere": sum(len(count.elsewhere) for count in counts),
        "invented": sum(count.invented for count in counts),
    }


SEED = 179424673
COVERED = 0.9
"""Share of a text's pixels in the mask from which it is gone, whoever may read it."""


@dataclass(frozen=True, slots=True)
class EngineCount:
    """What one OCR engine read in one test picture. ``before``: number of tokens legible before cleaning;
    ``left``: texts still read at tokens' places after it; ``elsewhere``: texts of the overlay read at any
    other place. ``invented``: number of texts that the engine reads neither in the clean picture nor in the
    overlay (speckle).
    """

    before: int
    left: tuple[OcrLine, ...] = ()
    elsewhere: tuple[OcrLine, ...] = ()
    invented: int = 0


@dataclass(frozen=True, slots=True)
class LegibleOutcome:
    """The result for one test picture. ``released``: whether the node returned an image; ``counts``: by OCR
    engine.
    """

    number: int
    frame: str
    tokens: int
    released: bool
    seconds: float = 0.0
    reason: str = ""
    counts: dict[str, EngineCount] = field(default_factory=dict)
    texts: int = 0
    uncovered: int = 0
    widened: int = 0
    blacked_out: int = 0
    changed_outside: int = 0
    filled: float = 0.0

    @property
    def is_read(self) -> bool:
        """Whether any OCR engine still reads some of the overlay's text after cleaning."""
        return any(count.left or count.elsewhere for count in self.counts.values())


@dataclass(frozen=True, slots=True)
class LegibilityTest:
    """Burns text into pictures, cleans them as the node does and reads them by OCR."""

    data: Path
    split: str
    policy: CleaningPolicy
    models_dir: Path | None

    def picture(self, number: int) -> LegibleOutcome:
        """Make, clean and read test picture number ``number``, which is the same in every run."""
        frame, burned, tokens = burned_picture(self.data, clean_frames(self.split), number)
        begun = LegibleOutcome(number, f"{frame.source}/{frame.file}", len(tokens), released=False)
        header = picture_header(burned.image, MODALITY, lossy=False)
        image = PictureImage(f"2.25.{number + 1}", "2.25.1", header, burned.image)
        tools, began = shared_tools(self.models_dir), time.perf_counter()
        try:
            cleaned = clean(image, lambda _share, _what: None, policy=self.policy, tools=tools)
        except CleaningFailed as failure:
            return replace(begun, seconds=time.perf_counter() - began, reason=str(failure))
        begun = replace(begun, seconds=time.perf_counter() - began)
        return self.outcome(begun, burned, tokens, cleaned, engines())

    def outcome(
        self,
        begun: LegibleOutcome,
        burned: BurnIn,
        tokens: tuple[Token, ...],
        cleaned: CleaningResult,
        readers: Sequence[OcrEngine],
    ) -> LegibleOutcome:
        """Read the picture ``cleaned``, which the node made of ``burned``, by all OCR engines ``readers``;
        returns ``begun`` with the counts.
        """
        picture, mask = np.asarray(cleaned.image.frames[0], np.uint8), np.asarray(cleaned.mask.frames[0]) > 0
        changed = (picture != burned.image).any(axis=2) & ~mask
        counts = {engine.name: self._read(engine, burned, tokens, picture) for engine in readers}
        return replace(
            begun,
            released=True,
            counts=counts,
            texts=len({token.owner for token in tokens}),
            uncovered=uncovered_texts(burned, tokens, mask),
            widened=cleaned.widened,
            blacked_out=cleaned.blacked_out,
            changed_outside=int(changed.sum()),
            filled=float(mask.mean()),
        )

    def _read(
        self, engine: OcrEngine, burned: BurnIn, tokens: tuple[Token, ...], cleaned: Picture
    ) -> EngineCount:
        """Read the identifying texts ``tokens`` before cleaning (``burned``) and after it (``cleaned``) by
        one OCR engine; returns the counts.
        """
        before = engine.lines([level_crop(burned.image, token.corners) for token in tokens])
        legible = [token for token, texts in zip(tokens, before, strict=True) if is_read(token, texts)]
        after = engine.lines([level_crop(cleaned, token.corners) for token in legible])
        left = tuple(
            OcrLine(token.text, _box(low, high + 1))
            for token, texts in zip(legible, after, strict=True)
            for low, high in [_outer_corners(token.corners)]
            if leaks(token, texts)
        )
        # What is read anywhere in the cleaned picture and was not there before anything was drawn.
        strings = engine.everything(cleaned)
        own = engine.everything(burned.clean) if strings else []
        fresh = [string for string in strings if not any(overlap(string.box, other.box) for other in own)]
        everything = self.policy is CleaningPolicy.RESEARCH
        objects = [thing for thing in burned.objects if everything or thing.meaning is Meaning.IDENTITY]
        words = {word for thing in objects for word in words_of(thing.text)}
        drawn = tuple(s for s in fresh if any(similarity(word, s.text) >= SAME for word in words))
        return EngineCount(len(legible), left, drawn, len(fresh) - len(drawn))


def burned_picture(
    data: Path, frames: Sequence[CleanFrame], number: int
) -> tuple[CleanFrame, BurnIn, tuple[Token, ...]]:
    """Make test picture number ``number``, the same in every run: returns the clean frame, the frame with an
    overlay, and the texts in it that identify the patient. Overlays are drawn at random until one has such a
    text.
    """
    order = np.random.default_rng(SEED).permutation(len(frames))
    frame = frames[order[number % len(frames)]]
    part = frame.read(data)
    drawn = (burn_in(part, HELD_OUT, (SEED, number, attempt)) for attempt in itertools.count())
    return next((frame, one, tokens) for one in drawn if (tokens := identity_tokens(one)))


def uncovered_texts(burned: BurnIn, tokens: tuple[Token, ...], mask: Mask) -> int:
    """The number of lines with identifying text (``tokens``) of which less than the share :data:`COVERED`
    lies in ``mask``.
    """
    size = len(burned.objects) + 1
    pixels = np.bincount(burned.owners.ravel(), minlength=size)
    inside = np.bincount(burned.owners[mask].ravel(), minlength=size)
    owners = {token.owner for token in tokens}
    return sum(bool(inside[owner] < COVERED * pixels[owner]) for owner in owners)


def _outer_corners(corners: Corners) -> tuple[Corners, Corners]:
    """The upper left and the lower right corner of the box around the points ``corners``."""
    return corners.min(axis=0), corners.max(axis=0)


def _box(low: Corners, high: Corners) -> Box:
    """The box between two corners, in whole pixels."""
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
