"""Rules that bypass a hold (``assess_first``) of another rule: they send the same results to a peer at
once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dicom_node.config.settings import Conditions, PeerSettings, Settings, matches


@dataclass(frozen=True, slots=True)
class Undercut:
    """``rule`` sends to ``peers`` at once the results that ``holding`` keeps until a person has accepted
    them.
    """

    rule: str
    holding: str
    peers: tuple[str, ...]

    def __str__(self) -> str:
        return f"{', '.join(self.peers)} gets by it at once what {self.holding} holds of the same study"


def undercuts(settings: Settings) -> Iterator[Undercut]:
    """Each rule that sends at once the same results that another rule holds for a person."""
    places = {peer.name: _place(peer) for peer in settings.peers}
    for holding in (rule for rule in settings.rules if rule.assess_first):
        held = {places.get(name, name) for name in holding.receivers}
        for rule in settings.rules:
            peers = tuple(sorted(name for name in rule.receivers if places.get(name, name) in held))
            if not peers or rule.assess_first or rule.pipeline != holding.pipeline:
                continue
            when = [(getattr(rule.when, key), getattr(holding.when, key)) for key in Conditions.model_fields]
            if not any(_exclude_each_other(*both) for both in when):
                yield Undercut(rule.name, holding.name, peers)


def _place(peer: PeerSettings) -> object:
    """Where it is: one PACS may be two peers. De-identified objects are others than those with a name."""
    where = peer.url if peer.by_http else peer.address_of("storage")
    return peer.transport, where, peer.deidentify


def _exclude_each_other(patterns: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Whether no value can match both conditions; False where two patterns may have a value in common."""
    return bool(patterns and others) and not any(
        matches(one, two) or matches(two, one) or ({"*", "?"} & set(one) and {"*", "?"} & set(two))
        for one in patterns
        for two in others
    )
