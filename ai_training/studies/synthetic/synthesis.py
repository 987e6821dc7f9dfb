"""Synthetic images of a rare label for a study: made once, judged, kept in the study's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ai_training.progress import Report, silent
from ai_training.studies.synthetic.fit import MadeImages, make_images
from ai_training.studies.synthetic.judge import Judged, judge
from ai_training.studies.synthetic.recipe import Synthesis

Bytes = npt.NDArray[np.uint8]
Called = npt.NDArray[np.bool_]
ROW, ROWS = 10, 3  # pictures of a sheet


@dataclass(frozen=True, slots=True, eq=False)
class RealImages:
    """Real images ``pixels [N, side, side]``; for each whether it is learned from, held out, and has the
    label: ``[N]``.
    """

    pixels: Bytes
    learned: Called
    held_out: Called
    labelled: Called


def synthesise(how: Synthesis, source: RealImages, out: Path, report: Report = silent) -> Mapping[str, Bytes]:
    """Make synthetic images with the label, ``[images, side, side]`` for each kind of generator.

    Writes ``synthetic-KIND.npz`` (kept if made by the same recipe), ``synthetic-KIND.png`` (a random sheet:
    real images above, then of any finding, then of the label) and ``synthetic.json`` (how good they are).
    """
    small = [cv2.resize(image, (how.side, how.side), interpolation=cv2.INTER_AREA) for image in source.pixels]
    real = np.stack(small).astype(np.uint8)
    images: dict[str, Bytes] = {}
    judged: dict[str, dict[str, Judged]] = {}
    for kind in how.kinds:
        made = _made(how, kind, real, source, out, report)
        images[kind] = made.of_label
        judged[kind] = {
            "any finding": judge(made.of_all, real[source.learned], real[source.held_out]),
            how.label: judge(
                made.of_label,
                real[source.learned & source.labelled],
                real[source.held_out & source.labelled],
            ),
        }
        _sheet(out / f"synthetic-{kind}.png", (real[source.learned], made.of_all, made.of_label))
    figures = {kind: {name: asdict(one) for name, one in of.items()} for kind, of in judged.items()}
    (out / "synthetic.json").write_text(json.dumps(figures, indent=1))
    return images


def _made(
    how: Synthesis, kind: str, real: Bytes, source: RealImages, out: Path, report: Report
) -> MadeImages:
    stored, recipe = out / f"synthetic-{kind}.npz", how.model_dump_json()
    if stored.is_file():
        with np.load(stored, allow_pickle=False) as found:
            if str(found["recipe"]) == recipe:
                return MadeImages(found["of_all"], found["of_label"])
    rare = real[source.learned & source.labelled]
    made = make_images(how, kind, real[source.learned], rare, out / f"synthetic-{kind}", report)
    np.savez(stored, allow_pickle=False, recipe=recipe, of_all=made.of_all, of_label=made.of_label)
    return made


def _sheet(path: Path, parts: tuple[Bytes, ...]) -> None:
    rows = []
    for part in parts:
        picked = np.random.default_rng(0).permutation(len(part))[: ROW * ROWS]
        filled = np.resize(picked, (ROWS, ROW))
        rows += [np.concatenate(list(part[row]), axis=1) for row in filled]
    cv2.imwrite(str(path), np.concatenate(rows))
