"""The outputs of ``evaluate inpaint``: grids before | filled | truth, plots, and the study's generated parts.

The study (``docs/studies/inpainting.md``) is written by hand but for the parts between ``<!-- name -->`` and
``<!-- /name -->``, which are generated, so that no figure in it is typed by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ai_pipeline.burnin.annotation.pixels import Mask, Picture
from ai_pipeline.burnin.fill.inpainters import Inpainter
from ai_training.evaluation.plots import BLUE, GREY, save
from ai_training.text import interval, markdown_table
from ai_training.ultrasound.inpaint.scores import (
    FIGURES,
    REFERENCE,
    UNCLEANED,
    fills,
    given_mask,
    measured_pictures,
)
from ai_training.ultrasound.marks import snapshots
from ai_training.ultrasound.marks.real_frames import coloured_frames
from ai_training.ultrasound.overlays import BurnIn, CleanFrame

SHOWN = 6
"""Pictures of a report's grids."""
IN_STUDY = (("us_fetal_head", 2), ("us_breast", 1))
"""Of which set how many pictures the study shows; each one's licence allows it (:data:`SOURCES`)."""
SOURCES = {
    "us_fetal_head": "HC18, van den Heuvel et al., doi 10.5281/zenodo.1322001, CC BY 4.0",
    "us_breast": "BUSI, Al-Dhabyani et al., Data in Brief 28, 2020, 104863, CC BY 4.0",
    "us_ovarian": "MMOTU, Zhao et al., doi 10.6084/m9.figshare.25058690, CC BY 4.0",
}
MOST_BYTES = 150_000
SIDE, SMALL = 200, 150
"""Side of a detail in a report's grid, and in the study's (pixels)."""
TITLES = {"mae": "MAE (0–255)", "mse": "MSE (0–1)", "psnr": "PSNR (dB)", "ssim": "SSIM"}
DIGITS = {"mae": 2, "mse": 5, "psnr": 2, "ssim": 3}
PLACES = {"inside": "in the mask", "whole": "whole picture"}
MASKS = {"given": "given mask", "detected": "detected mask (all that the node removes)"}
REAL_FRAMES = 3
IN_PAIRS = frozenset({"oci-gan", REFERENCE})
"""The ways that real frames are shown with."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """Makes pictures of the same frames, overlays and inpainters that were measured."""

    data: Path
    ways: Sequence[Inpainter]
    planned: Callable[[Picture], Mask | None] | None
    split: str

    def synthetic(
        self, wanted: Sequence[tuple[str, int]], side: int = SIDE, *, detected: bool = True
    ) -> Iterator[tuple[CleanFrame, Picture]]:
        """A grid for each of the first pictures of every set; ``wanted``: sets and numbers of pictures."""
        open_ = dict(wanted)
        for frame, burned in measured_pictures(self.data, 200, self.split):
            if open_.get(frame.source, 0) > 0 and burned.mask.any():
                open_[frame.source] -= 1
                yield frame, self.grid(burned, side, detected=detected)
            if not any(open_.values()):
                return

    def grid(self, burned: BurnIn, side: int, *, detected: bool) -> Picture:
        """The square with most marks: with overlay, filled in every way, truth; below the same with the
        detected mask.
        """
        cut = densest(burned.owners > 0, side)
        rows = []
        holes = {"given": given_mask(burned)}
        found = self.planned(burned.image) if self.planned is not None and detected else None
        if found is not None:
            holes["detected"] = found
        for title, hole in holes.items():
            filled = fills(burned.image, hole, self.ways) | {"truth": burned.clean}
            shown = [_detail(picture, cut, name) for name, picture in filled.items()]
            masked = snapshots.outlined(burned.image, [(hole, snapshots.OUTLINE)], 1)
            rows.append(snapshots.beside([*shown, _detail(masked, cut, f"{title} mask")]))
        return snapshots.stacked(rows)

    def real(self, count: int) -> Iterator[tuple[str, Picture]]:
        """Real validation frames of ``us_ovarian`` before and after filling; the truth under the marks is
        unknown.
        """
        if self.planned is None:
            return
        for frame in coloured_frames(self.data, "val"):
            hole = self.planned(frame.picture) if count else None
            if hole is not None and len(frame.marks) > 2 and hole.any():
                count -= 1
                ways = [way for way in self.ways if way.name in IN_PAIRS]
                filled = fills(frame.picture, hole, ways)
                yield (
                    frame.name,
                    snapshots.beside([snapshots.titled(picture, name) for name, picture in filled.items()]),
                )


def write_report(folder: Path, result: Mapping[str, Any], gallery: Gallery) -> Path:
    """Write grids, plots and a page that shows them; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# Inpainting", "", "Not for diagnostic use.", "", *tables(result), "", "## Plots", ""]
    for mask in {row["mask"]: None for row in result["rows"]}:
        plot = differences_plot(folder / f"differences-{mask}.png", result, mask)
        lines += [f"![differences to {REFERENCE}, {mask} mask]({plot.name})", ""]
    lines += ["## Pictures", ""]
    sets = [(source, SHOWN) for source in SOURCES]
    for number, (frame, grid) in enumerate(gallery.synthetic(sets)):
        path = snapshots.save(folder / f"grid-{number:02}.png", grid)
        lines += [f"![{frame.source}/{frame.file}]({path.name})", ""]
    for name, pair in gallery.real(SHOWN):
        path = snapshots.save(folder / f"real-{name}.png", pair)
        lines += [f"![{name}]({path.name})", ""]
    page = folder / "report.md"
    page.write_text("\n".join(lines), encoding="utf-8")
    return page


def write_study(page: Path, result: Mapping[str, Any], gallery: Gallery) -> None:
    """Renew the generated parts of the study ``page``, and its pictures in ``../pictures``.

    Raises ValueError if the page lacks a part, FileNotFoundError if there is no page.
    """
    folder = page.parent.parent / "pictures"
    parts = {
        "measured": _measured(result),
        "tables": "\n".join(tables(result)),
        "published": "\n".join(published(result["published"])),
        "pictures": "\n".join(_study_pictures(folder, result, gallery)),
    }
    page.write_text(with_parts(page.read_text(encoding="utf-8"), parts), encoding="utf-8")


def with_parts(text: str, parts: Mapping[str, str]) -> str:
    """``text`` with the part between ``<!-- name -->`` and ``<!-- /name -->`` replaced, for each name in
    ``parts``.
    """
    for name, part in parts.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"the page has no part {name}")
        text = pattern.sub(_between(part), text)
    return text


def tables(result: Mapping[str, Any]) -> list[str]:
    """Markdown lines: a table for each kind of mask and place, and the paired differences to
    the reference.
    """
    lines: list[str] = []
    for mask, mask_title in MASKS.items():
        rows = [row for row in result["rows"] if row["mask"] == mask]
        if not rows:
            continue
        for place, title in PLACES.items():
            lines += [f"**{mask_title.capitalize()}, {title}** ({rows[0]['pictures']} pictures)", ""]
            kid = ["KID"] if place == "inside" else []
            lines += markdown_table(
                ("", *TITLES.values(), *kid), (_row(row, place, kid=bool(kid)) for row in rows)
            )
        lines += [f"**{mask_title.capitalize()}: paired difference to {REFERENCE}, in the mask**", ""]
        lines += markdown_table(
            ("", *TITLES.values(), "KID", "PSNR tells"),
            (_difference(row) for row in rows if "kid_difference" in row),
        )
    return lines[:-1]


def published(figures: Mapping[str, Any]) -> list[str]:
    """Markdown lines: the published figures, as printed there."""
    names = {"oci-gan": "OCI-GAN", "unet": "U-Net", "vae": "VAE", UNCLEANED: "uncleaned"}
    rows = ((title, *(str(figures[key][name]) for name in (*FIGURES, "fid"))) for key, title in names.items())
    return markdown_table(("as printed", "MAE", "MSE", "PSNR", "SSIM", "FID"), rows)[:-1]


def differences_plot(path: Path, result: Mapping[str, Any], mask: str) -> Path:
    """Plot paired differences to the reference with their intervals, one panel per figure; zero is a tie."""
    rows = [row for row in result["rows"] if row["mask"] == mask and "difference" in row["inside"]]
    figure = Figure(figsize=(10, 1.2 + 0.35 * max(1, len(rows))), layout="constrained")
    panels: Sequence[Axes] = np.atleast_1d(figure.subplots(1, len(FIGURES), sharey=True)).tolist()
    for axes, name in zip(panels, FIGURES, strict=True):
        axes.axvline(0, color=GREY, linewidth=0.8)
        for place, row in enumerate(rows):
            value, low, high = row["inside"]["difference"][name]
            axes.errorbar(value, place, xerr=[[value - low], [high - value]], fmt="o", color=BLUE)
        axes.set(title=TITLES[name], yticks=range(len(rows)), yticklabels=[row["name"] for row in rows])
        axes.tick_params(labelsize=8)
    figure.suptitle(f"difference to {REFERENCE} in the mask, {mask} mask", fontsize=9)
    return save(figure, path)


def densest(mask: Mask, most: int) -> tuple[slice, slice]:
    """The square of ``most`` pixels a side that holds most of the mask."""
    rows, columns = mask.shape
    side = min(most, rows), min(most, columns)
    sums = np.pad(np.cumsum(np.cumsum(mask.astype(np.int64), 0), 1), ((1, 0), (1, 0)))
    windows = (
        sums[side[0] :, side[1] :]
        - sums[: -side[0], side[1] :]
        - sums[side[0] :, : -side[1]]
        + sums[: -side[0], : -side[1]]
    )
    top, left = np.unravel_index(int(np.argmax(windows)), windows.shape)
    return slice(int(top), int(top) + side[0]), slice(int(left), int(left) + side[1])


def _measured(result: Mapping[str, Any]) -> str:
    refused = f"; the node refused {result['refused']} of them" if result["refused"] else ""
    look = "" if result["split"] == "test" else " **Validation frames: not the final figures.**"
    return f"{result['set']}{refused}. Intervals are 95 %, by bootstrap over frames.{look}\n"


def _study_pictures(folder: Path, result: Mapping[str, Any], gallery: Gallery) -> Iterator[str]:
    for mask in {row["mask"]: None for row in result["rows"]}:
        path = folder / f"inpainting-differences-{mask}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        differences_plot(path, result, mask)
        yield from (f"![Paired differences, {mask} mask](../pictures/{path.name})", "")
    for number, (frame, grid) in enumerate(gallery.synthetic(IN_STUDY, SMALL, detected=False), start=1):
        path = snapshots.save(folder / f"inpainting-{number}.png", grid, MOST_BYTES)
        yield from (f"![Overlaid, filled, truth](../pictures/{path.name})", "")
        yield from (f"({frame.file}: {SOURCES[frame.source]}; cut out, invented annotation drawn on it.)", "")
    for number, (name, pair) in enumerate(gallery.real(REAL_FRAMES), start=1):
        path = snapshots.save(folder / f"inpainting-real-{number}.png", pair, MOST_BYTES)
        yield from (f"![Real marks, before and after](../pictures/{path.name})", "")
        yield from (f"({name}, a validation frame: {SOURCES['us_ovarian']}; marks removed.)", "")


def _row(row: Mapping[str, Any], place: str, *, kid: bool) -> tuple[str, ...]:
    cells = [_text(row[place][name], DIGITS[name]) for name in FIGURES]
    return row["name"], *cells, *([_text(row["kid"], 4)] if kid else [])


def _difference(row: Mapping[str, Any]) -> tuple[str, ...]:
    found = row["inside"]["difference"]
    cells = [_text(found[name], DIGITS[name]) for name in FIGURES] + [_text(row["kid_difference"], 4)]
    _, low, high = found["psnr"]
    verdict = "better" if low > 0 else "worse" if high < 0 else "no difference shown"
    return row["name"], *cells, verdict


def _text(values: Sequence[float], digits: int) -> str:
    return interval(values, digits, minus="−")


def _detail(picture: Picture, cut: tuple[slice, slice], title: str) -> Picture:
    return snapshots.titled(np.ascontiguousarray(picture[cut]), title)


def _between(part: str) -> Callable[[re.Match[str]], str]:
    return lambda match: f"{match[1]}{part.rstrip()}\n{match[2]}"
