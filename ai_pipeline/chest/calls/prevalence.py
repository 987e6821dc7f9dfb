"""Convert probabilities from the prevalence a model was calibrated at to the prevalence of a site.

A calibrated probability holds at the prevalence of the images it was calibrated on. Where the same disease
looks the same but is rarer, Bayes' rule shifts every logit by the difference of the two prevalences' logits
(M. Saerens et al., Neural Computation 14, 2002, 21-41). Thresholds are shifted by the same amount, so no
decision changes: only the number changes, so that it is right at the site.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ai_pipeline.models.registry import Card, Label


def calibrated_at(card: Card) -> Mapping[str, float]:
    """The prevalence of every label in the card's table ``[calibration.prevalence]``, above 0 and below 1."""
    table = card.details.get("calibration", {}).get("prevalence")
    if not isinstance(table, Mapping):
        return {}
    return {str(name): float(share) for name, share in table.items() if _is_share(share)}


def fault(card: Card, wanted: Mapping[str, float]) -> str | None:
    """Why ``prevalence = { Label = share, … }`` is not valid for this card; None if it is."""
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
    """The ``labels`` of ``card`` at an operating point, with probabilities and thresholds shifted to a site.

    ``wanted``: the site's prevalences by label. Raises ValueError for a faulty value.
    """
    wrong = fault(card, wanted)
    if wrong is not None:
        raise ValueError(f"option prevalence: {wrong}")
    known = calibrated_at(card)
    return tuple(
        shifted(label, known[label.name], float(wanted[label.name])) if label.name in wanted else label
        for label in labels
    )


def shifted(label: Label, calibrated: float, site: float) -> Label:
    """``label``, calibrated at the prevalence ``calibrated``, for the prevalence ``site``; both above 0,
    below 1.
    """
    shift = _logit(site) - _logit(calibrated)
    return replace(
        label,
        intercept=label.intercept + shift,
        threshold=_shifted(label.threshold, shift),
        absent_below=_shifted(label.absent_below, shift),
    )


def sentence(card: Card, wanted: Mapping[str, float]) -> str:
    """The text of the note that results carry. ``wanted``: prevalences by label, above 0 and below 1."""
    known = calibrated_at(card)
    shares = ", ".join(f"{name} {wanted[name]:.3g} (calibrated at {known[name]:.3g})" for name in wanted)
    return f"Probabilities and thresholds are for the site's prevalence: {shares}."


def _shifted(share: float, shift: float) -> float:
    if not 0.0 < share < 1.0:  # never, or always
        return share
    return 1.0 / (1.0 + math.exp(-(_logit(share) + shift)))


def _logit(share: float) -> float:
    return math.log(share / (1.0 - share))


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 < value < 1.0
