"""Operating points: from which probability a finding is suspected, and how reliable such a call is.

A card's table ``[operating_points]`` gives thresholds for ``specific`` (few false alarms) and ``sensitive``
(few misses), chosen on validation images; ``balanced`` are the thresholds of its labels. The reliability of a
call follows from the likelihood ratios in ``[metrics.operating_points]``, measured on test images, and from
the prevalence of the finding: odds that it is present = odds of the prevalence × likelihood ratio (Bayes'
rule).

A label may use the word "suspected", "not found", both, or none (then it is not assessed). This follows from
the figures in the card's ``[metrics.operating_points]``, measured on images that were not used to choose
thresholds. They hold at the operating point in use and at the prevalence of the site.

Convert probabilities from the prevalence a model was calibrated at to the prevalence of a site.

A calibrated probability holds at the prevalence of the images it was calibrated on. Where the same disease
looks the same but is rarer, Bayes' rule shifts every logit by the difference of the two prevalences' logits
(M. Saerens et al., Neural Computation 14, 2002, 21-41). Thresholds are shifted by the same amount, so no
decision changes: only the number changes, so that it is right at the site.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from ai_pipeline.contract import Decision, QualityNote
from ai_pipeline.models.registry import Card, Label

NOTE: Final = "operating point"


class OperatingPoint(StrEnum):
    """A set of thresholds of a classifier that a site can choose. The first one that a model card has is the
    default, as false alarms tire a reader most.
    """

    SPECIFIC = "specific"
    BALANCED = "balanced"
    SENSITIVE = "sensitive"


_MEANINGS: Final = {
    OperatingPoint.SPECIFIC: "few false alarms, more findings missed",
    OperatingPoint.BALANCED: "between few false alarms and few misses",
    OperatingPoint.SENSITIVE: "few findings missed, many false alarms",
}


def points_of(card: Card) -> tuple[OperatingPoint, ...]:
    """The operating points for which ``card`` has thresholds."""
    table = card.details.get("operating_points", {})
    return tuple(one for one in OperatingPoint if one is OperatingPoint.BALANCED or one in table)


def point_fault(card: Card, wanted: object) -> str | None:
    """Why ``wanted`` is no valid operating point of this model card, as the end of a sentence that says what
    is valid; None if it is valid.
    """
    known = points_of(card)
    return None if wanted in known else f"must be one of {', '.join(known)} for {card.name}"


def chosen_point(card: Card, wanted: OperatingPoint | None) -> OperatingPoint:
    """The ``wanted`` operating point, or the model card's default if None is wanted."""
    return wanted or points_of(card)[0]


def labels_at(card: Card, point: OperatingPoint) -> tuple[Label, ...]:
    """The model card's labels with the thresholds of ``point``; a label that has none there keeps its own
    thresholds.
    """
    rows = card.details.get("operating_points", {}).get(point, {}).get("labels", {})
    return tuple(
        replace(label, threshold=float(row["threshold"][0]), absent_below=float(row["absent_below"]))
        if (row := rows.get(label.name)) is not None
        else label
        for label in card.labels
    )


def point_note(card: Card, point: OperatingPoint) -> QualityNote:
    """The note in every result that names the operating point, and the share of false alarms at it if that
    was measured.
    """
    text, table = f"{point}: {_MEANINGS[point]}", _measured(card, point)
    measured = table.get("without_finding_called")
    if table.get("called") == []:
        text = f"{point}: no finding is suspected, only what was not found is reported"
    elif measured:
        shares = _of_so_many(measured, "films without any finding", "gets one", "get one")
        text += f". {shares.capitalize()}"
    return QualityNote(NOTE, f"{text}.")


def reliability(card: Card, point: OperatingPoint, label: str, decision: Decision, prevalence: float) -> str:
    """How often a decision on ``label`` is right at the operating point ``point`` and a ``prevalence``
    between 0 and 1 (exclusive), in words such as "of 10 such calls, about 3 are right (2 to 5)". It is "" if
    the model card has no figures, and for an indeterminate finding.
    """
    shares = predictive(card, point, label, decision, prevalence)
    if shares is None:
        return ""
    if decision is Decision.PRESENT:
        return _of_so_many(shares, "such calls", "is right", "are right")
    return _of_so_many(shares, "such films", "has it all the same", "have it all the same")


def predictive(
    card: Card, point: OperatingPoint, label: str, decision: Decision, prevalence: float
) -> tuple[float, float, float] | None:
    """The share of images with this ``decision`` that have the finding, then the lower and the upper end of
    its 95 % interval. ``prevalence``: between 0 and 1 (exclusive). None if the model card has no figures, and
    for an indeterminate finding.
    """
    ratios = figures(card, point, label)
    key = {Decision.PRESENT: "present_ratio", Decision.ABSENT: "absent_ratio"}.get(decision)
    return None if key is None or key not in ratios else shares_right(ratios[key], prevalence)


def shares_right(ratios: Sequence[float], prevalence: float) -> tuple[float, float, float]:
    """The share of images with a decision that have the finding, with the ends of its interval. ``ratios``:
    the decision's likelihood ratio and the ends of its interval; ``prevalence``: between 0 and 1 (exclusive).
    """
    odds = prevalence / (1 - prevalence)
    value, low, high = (odds * ratio / (1 + odds * ratio) for ratio in ratios)
    return value, low, high


def worth_a_call(shares: Sequence[float] | None) -> bool:
    """Whether a finding may be suspected, of which this share of calls is right (:func:`predictive`)."""
    # Least share of right calls that are worth a look, and the least lower end of its interval.
    return shares is not None and shares[0] >= (1 / 3) and shares[1] >= (1 / 6)


def called_labels(card: Card, point: OperatingPoint, labels: Sequence[str]) -> list[str]:
    """Those of ``labels`` that a reader sees called at ``point``, at the prevalences of the calibration."""
    rates = calibrated_at(card)
    return [name for name in labels if words_of(card, point, name, rates.get(name)).suspected]


def figures(card: Card, point: OperatingPoint, label: str) -> Mapping[str, Any]:
    """The figures of a label at an operating point, measured on test images: sensitivity, specificity and
    likelihood ratios, each a value with its 95 % interval; empty if none were measured.
    """
    found: Mapping[str, Any] = _measured(card, point).get("labels", {}).get(label, {})
    return found


def _measured(card: Card, point: OperatingPoint) -> Mapping[str, Any]:
    """The model card's table of figures that were measured at the operating point ``point``; empty if it has
    none.
    """
    found: Mapping[str, Any] = card.details.get("metrics", {}).get("operating_points", {}).get(point, {})
    return found


def _of_so_many(shares: Sequence[float], what: str, one: str, more: str) -> str:
    """A share in words, such as "of 10 such calls, about 3 are right (2 to 5)". ``shares``: a value and the
    ends of its interval; ``what``: the things counted; ``one``, ``more``: the verb phrase for one and for
    several of them.
    """
    among = 10 if shares[0] >= 0.1 else 100
    value, low, high = (round(among * share) for share in shares)
    about = f"about {value}" if value else "fewer than 1"
    reach = f" ({low} to {high})" if low < high else ""
    return f"of {among} {what}, {about} {one if value <= 1 else more}{reach}"


FOUND: Final = 0.5
"""Least sensitivity of which "not found" says anything: its interval must lie above. A finding that is missed
as often as it is called is not excluded by silence."""


@dataclass(frozen=True, slots=True)
class Words:
    """Which statements about a label are allowed: that it is ``suspected``, that it was ``not_found``."""

    suspected: bool
    not_found: bool

    @property
    def assessed(self) -> bool:
        """Whether any statement about the label is allowed."""
        return self.suspected or self.not_found

    def limited(self, decision: Decision) -> Decision:
        """Return ``decision`` if the statement is allowed, else INDETERMINATE."""
        silent = {Decision.PRESENT: not self.suspected, Decision.ABSENT: not self.not_found}
        return Decision.INDETERMINATE if silent.get(decision) else decision


def words_of(card: Card, point: OperatingPoint, label: str, prevalence: float | None) -> Words:
    """The statements about ``label`` that a report may make: those that the figures of ``card`` at the
    operating point ``point`` support. ``prevalence``: between 0 and 1 (exclusive), None if unknown. A label
    without figures may neither be called suspected nor not found.
    """
    sensitivity = figures(card, point, label).get("sensitivity")
    right = predictive(card, point, label, Decision.PRESENT, prevalence) if prevalence else None
    # False calls of any other label were not counted when the thresholds were chosen.
    counted = card.details.get("operating_points", {}).get(point, {}).get("called", [label])
    return Words(
        suspected=label in counted and worth_a_call(right),
        not_found=sensitivity is not None and sensitivity[1] >= FOUND,
    )


def calibrated_at(card: Card) -> Mapping[str, float]:
    """The prevalence of each label at which the model was calibrated, between 0 and 1 (exclusive): the model
    model card's table ``[calibration.prevalence]``; empty without one.
    """
    table = card.details.get("calibration", {}).get("prevalence")
    if not isinstance(table, Mapping):
        return {}
    return {str(name): float(share) for name, share in table.items() if _is_share(share)}


def prevalence_fault(card: Card, wanted: Mapping[str, float]) -> str | None:
    """Why the option ``prevalence = { Label = share, … }`` (``wanted``) is not valid for this model card, as
    a sentence; None if it is.
    """
    known = calibrated_at(card)
    for name, share in wanted.items():
        label = next((label for label in card.labels if label.name == name), None)
        if label is None:
            names = ", ".join(label.name for label in card.labels)
            return f"{card.name} has no label {name!r}; it has: {names}"
        if not _is_share(share):
            return f"{name} must be a share above 0 and below 1, not {share!r}"
        if not card.calibrated or name not in known:
            return f"the card of {card.name} does not say at which prevalence of {name} it was calibrated"
    return None


def at_site(card: Card, labels: Sequence[Label], wanted: Mapping[str, float]) -> tuple[Label, ...]:
    """Shift probabilities and thresholds of ``labels``, which are those of ``card`` at an operating point, to
    a site's prevalences. ``wanted``: the site's prevalence by label; other labels stay as they are. Raises
    ValueError for a faulty value.
    """
    wrong = prevalence_fault(card, wanted)
    if wrong is not None:
        raise ValueError(f"option prevalence: {wrong}")
    known = calibrated_at(card)
    return tuple(
        shifted(label, known[label.name], float(wanted[label.name])) if label.name in wanted else label
        for label in labels
    )


def shifted(label: Label, calibrated: float, site: float) -> Label:
    """Return ``label``, calibrated at the prevalence ``calibrated``, with calibration and thresholds for the
    prevalence ``site``; both between 0 and 1 (exclusive).
    """
    shift = _logit(site) - _logit(calibrated)
    return replace(
        label,
        intercept=label.intercept + shift,
        threshold=_shifted(label.threshold, shift),
        absent_below=_shifted(label.absent_below, shift),
    )


def prevalence_sentence(card: Card, wanted: Mapping[str, float]) -> str:
    """The sentence in results that states the site's prevalences ``wanted`` (by label) and those of the
    calibration.
    """
    known = calibrated_at(card)
    shares = ", ".join(f"{name} {wanted[name]:.3g} (calibrated at {known[name]:.3g})" for name in wanted)
    return f"Probabilities and thresholds are for the site's prevalence: {shares}."


def _shifted(share: float, shift: float) -> float:
    """Shift a threshold ``share`` (0 to 1) by ``shift`` on the logit scale; 0 and 1 stay, since they mean
    "always" and "never".
    """
    if not 0.0 < share < 1.0:  # never, or always
        return share
    return 1.0 / (1.0 + math.exp(-(_logit(share) + shift)))


def _logit(share: float) -> float:
    """The logit of a probability between 0 and 1 (exclusive)."""
    return math.log(share / (1.0 - share))


def _is_share(value: object) -> bool:
    """Whether ``value`` is a number between 0 and 1 (exclusive)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 < value < 1.0
