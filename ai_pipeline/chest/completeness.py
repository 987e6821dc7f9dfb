"""Completeness of a chest film: which ends of the lungs lie outside the picture.

A part that is cut off cannot be assessed. Each edge of the picture is judged by itself, by a logistic model
of six figures of the lungs' outlines at that edge; its coefficients are in the card of the anatomy network.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

import numpy as np

from ai_pipeline.chest.anatomy import LEFT_LUNG, RIGHT_LUNG, Anatomy
from ai_pipeline.contract import Bools, Decision, Finding, Grey, QualityNote
from ai_pipeline.models.registry import Card
from ai_pipeline.summary import NOT_ASSESSED

FIGURES: Final = ("gap", "other gap", "touch", "end", "other end", "shape")
"""The figures of an edge, in this order; see :func:`figures_at`."""


class Edge(StrEnum):
    """An edge of the upright picture; ``SIDE`` stands for the left and for the right edge."""

    TOP = "top"
    BOTTOM = "bottom"
    SIDE = "side"


MISSING: Final[Mapping[Edge, str]] = {
    Edge.TOP: "apices of the lungs",
    Edge.BOTTOM: "bases of the lungs",
    Edge.SIDE: "lateral wall of the chest",
}
"""What is outside the picture where it is cut off at an edge."""
NEEDS: Final[Mapping[str, Edge]] = {"Effusion": Edge.BOTTOM, "Pneumothorax": Edge.TOP}
"""By label the edge near which it lies in an upright patient: where that is cut off it was not looked for."""


@dataclass(frozen=True, slots=True)
class Judge:
    """A logistic model that judges whether the film is cut off at one edge.

    ``weights [6]`` and ``offset`` are the model's; the film counts as cut off if the model's value exceeds
    ``limit``.
    """

    weights: tuple[float, ...]
    offset: float
    limit: float

    def is_cut(self, figures: Sequence[float]) -> bool:
        """Whether the film is cut off at an edge, from the six ``figures`` measured there."""
        # Share of a lung's length: lungs that end farther from an edge are not cut off there.
        return figures[0] <= 0.1 and float(np.dot(self.weights, figures) + self.offset) > self.limit


@dataclass(frozen=True, slots=True)
class Completeness:
    """The judges of the three edges; none if the card has no coefficients, and then no edge counts as cut."""

    judges: Mapping[Edge, Judge]

    @staticmethod
    def from_card(card: Card) -> Completeness:
        """The check with the coefficients in the table ``[completeness]`` of the anatomy network's card."""
        rows: Mapping[str, Any] = card.details.get("completeness", {})
        return Completeness(
            {
                edge: Judge(tuple(map(float, row["weights"])), float(row["offset"]), float(row["limit"]))
                for edge in Edge
                if (row := rows.get(edge.value))
            }
        )

    def missing(self, upright: Grey, anatomy: Anatomy) -> tuple[Edge, ...]:
        """The edges at which the chest is cut off.

        ``upright``: the displayed image ``[rows, columns]``, uint8, upright. ``anatomy``: in its coordinates.
        """
        if not anatomy.masks[[RIGHT_LUNG, LEFT_LUNG]].any(axis=(1, 2)).all():
            return ()
        rows = figures_of(upright, anatomy)
        return tuple(
            edge
            for edge, judge in self.judges.items()
            if any(judge.is_cut(figures) for figures in rows[edge])
        )


def without_missing(findings: Sequence[Finding], missing: Collection[Edge]) -> list[Finding]:
    """The findings that may be stated for a film that is cut off: all suspected ones, and no "not found".

    A finding that is not suspected is left out if it lies where the film is cut off.
    """
    if not missing:
        return list(findings)
    seen = [
        one for one in findings if one.decision is Decision.PRESENT or NEEDS.get(one.label) not in missing
    ]
    return [
        replace(one, decision=Decision.INDETERMINATE) if one.decision is Decision.ABSENT else one
        for one in seen
    ]


def missing_notes(uid: str, findings: Sequence[Finding], missing: Collection[Edge]) -> list[QualityNote]:
    """Notes that a part of the chest was not assessed, with the ``findings`` there that are left out."""
    if not missing:
        return []
    parts = [MISSING[edge] for edge in Edge if edge in missing]
    stated = {one.label for one in without_missing(findings, missing)}
    names = [f"{part} (outside the picture)" for part in parts]
    names += [one.code.meaning.lower() for one in findings if one.label not in stated]
    text = f"{' and '.join(parts).capitalize()}: outside the picture."
    return [QualityNote(NOT_ASSESSED, text, uid, names=tuple(names))]


def figures_of(upright: Grey, anatomy: Anatomy) -> Mapping[Edge, list[tuple[float, ...]]]:
    """The figures of each edge; the left and the right side give one tuple each: see ``FIGURES``."""
    masks = anatomy.in_image(*upright.shape)[[RIGHT_LUNG, LEFT_LUNG]] > 0
    ends: list[int] = []  # of the film, in a picture that may have plain borders
    for axis in (1, 0):
        # Grey levels, 0 to 255, within which a whole row or column differs where the film does not reach.
        varies = np.flatnonzero(np.ptp(upright, axis=axis) > 10)
        ends += [int(varies[0]), int(varies[-1]) + 1] if len(varies) else [0, upright.shape[1 - axis]]
    film = masks[:, ends[0] : ends[1], ends[2] : ends[3]]
    across = film.transpose(0, 2, 1)
    return {
        Edge.TOP: [figures_at(film)],
        Edge.BOTTOM: [figures_at(film[:, ::-1])],
        Edge.SIDE: [figures_at(across), figures_at(across[::-1, ::-1])],
    }


def figures_at(lungs: Bools) -> tuple[float, ...]:
    """The figures at the first row of ``lungs [2, rows, columns]``, for both lungs, the worse one first.

    ``gap``: rows before the lung begins, as a share of its length. ``touch``: the lung's widest row in the
    strip along the edge, as a share of its widest row of all; the larger of both lungs. ``end``: its width
    where it begins, as a share of the same. ``shape``: length of the shorter lung as a share of the longer
    one's. All 0 to 1, gaps at most 1.
    """
    # Depth of the strip along an edge, as a share of the picture, that counts as touching it.
    strip = max(1, round(0.02 * lungs.shape[1]))
    measured: list[tuple[float, float, float, int]] = []
    for lung in lungs:
        widths = lung.sum(axis=1)
        rows = np.flatnonzero(widths)
        if not len(rows):
            measured.append((0.0, 1.0, 1.0, 0))
            continue
        first, length, widest = int(rows[0]), int(rows[-1] - rows[0] + 1), int(widths.max())
        touch = widths[:strip].max() / widest
        # Part of a lung's length at whose end its width is taken.
        end = widths[first : first + max(1, round(0.03 * length))].max() / widest
        measured.append((min(first / length, 1.0), touch, end, length))
    gaps, touches, ends, lengths = zip(*measured, strict=True)
    shape = min(lengths) / max(*lengths, 1)
    return (min(gaps), max(gaps), float(max(touches)), float(max(ends)), float(min(ends)), shape)
