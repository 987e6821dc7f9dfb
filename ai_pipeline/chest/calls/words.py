"""Which words a label may use: "suspected", "not found", both, or none (then it is not assessed).

This follows from the figures in the card's ``[metrics.operating_points]``, measured on images that were not
used to choose thresholds. They hold at the operating point in use and at the prevalence of the site.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ai_pipeline.chest.calls.operating_points import OperatingPoint, figures, predictive
from ai_pipeline.contract import Decision
from ai_pipeline.models.registry import Card

FOUND: Final = 0.5
"""Least sensitivity of which "not found" says anything: its interval must lie above. A finding that is missed
as often as it is called is not excluded by silence."""
RIGHT, SURELY_RIGHT = 1 / 3, 1 / 6
"""Least share of right calls that are worth a look, and the least lower end of its interval."""


@dataclass(frozen=True, slots=True)
class Words:
    """The statements allowed about a label: that it is suspected, that it was not found."""

    suspected: bool
    not_found: bool

    @property
    def assessed(self) -> bool:
        """Whether any statement about the label is allowed."""
        return self.suspected or self.not_found

    def limited(self, decision: Decision) -> Decision:
        """``decision`` if its word may be used, else INDETERMINATE: the finding cannot be excluded."""
        silent = {Decision.PRESENT: not self.suspected, Decision.ABSENT: not self.not_found}
        return Decision.INDETERMINATE if silent.get(decision) else decision


def words_of(card: Card, point: OperatingPoint, label: str, prevalence: float | None) -> Words:
    """The words allowed for a ``label`` at a ``prevalence`` above 0 and below 1.

    A label without figures may be "suspected", since the site chose its model, and is never "not found".
    """
    sensitivity = figures(card, point, label).get("sensitivity")
    right = prevalence and predictive(card, point, label, Decision.PRESENT, prevalence)
    return Words(
        suspected=not right or (right[0] >= RIGHT and right[1] >= SURELY_RIGHT),
        not_found=sensitivity is not None and sensitivity[1] >= FOUND,
    )
