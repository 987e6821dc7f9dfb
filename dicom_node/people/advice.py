"""What would admit a caller of the node: a sentence for each cause, with lines of configuration."""

import difflib
import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.sample import toml_value
from dicom_node.base.config.settings import Settings
from dicom_node.base.store.views import View
from dicom_node.deliver.outages import PeerOutage
from dicom_node.receive.messages import Proposal
from dicom_node.receive.policy import AEPolicy, accepted_classes, further_classes, refused_class
from dicom_node.receive.statuses import (
    CALLED_AE_NOT_RECOGNISED,
    CALLING_AE_NOT_RECOGNISED,
    LOCAL_LIMIT_EXCEEDED,
    NOT_AUTHORISED,
    TOO_LARGE,
)

Record = Mapping[str, Any]
_STANDARD = "1.2.840.10008."
_STORAGE = "1.2.840.10008.5.1.4.1.1."  # PS3.4 B.5: other services lie elsewhere


def advise(
    settings: Settings, peers: Sequence[PeerSettings], found: Record, lost: Iterable[PeerOutage]
) -> Iterator[View]:
    """Yield what a person should do, with lines of configuration that do it, for the most likely cause first.

    ``peers``: the peers that the caller may be. ``found``: what ``why`` found. ``lost``: outages of peers.
    """
    away = [outage for outage in lost if outage.destination in {peer.name for peer in peers}]
    yield from map(_about_outage, away)
    yield from _about_rejections(settings, found)
    yield from _about_contexts(settings, found)
    yield from _about_objects(settings, found)
    may = {word for peer in peers for word in peer.may}
    called = any(found[key] for key in ("associations", "rejections", "refused_objects", "failures"))
    if not (away or called or may == {"receive"}):
        yield from _about_silence(settings, may)


def short_name(title: str) -> str:
    """A valid name for a new peer with this AE title; "" without a title."""
    return title and (re.sub(r"[^a-z0-9._-]+", "-", title.lower()).strip("-") or "new")


def is_address(text: str) -> bool:
    """Whether the text is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _about_outage(outage: PeerOutage) -> View:
    """Advice about a peer that takes or confirms no results."""
    return {"concerns": "results"} | _lines(
        f"since {outage.since:%Y-%m-%d %H:%M} UTC it confirms none of the {outage.waiting} results that wait "
        f"for it ({outage.reason}). Does it run, and know this node? dicom-node peers test "
        f"{outage.destination} tries it"
    )


def _about_rejections(settings: Settings, found: Record) -> Iterator[View]:
    """Yield advice about rejected associations in ``found``, according to the present configuration."""
    policy = AEPolicy.from_settings(settings)
    for row in found["rejections"]:
        calling, called, address = row["calling_ae"], row["called_ae"], row["address"]
        verdict = policy.decide(Proposal(calling, called, address))  # as the configuration is by now
        if row["outdated"] and row["meaning"] != LOCAL_LIMIT_EXCEEDED.meaning:
            continue
        if verdict == CALLED_AE_NOT_RECOGNISED:
            known = settings.listener.further_ae_titles
            yield _lines(
                f"{calling} calls us {called}; we are {', '.join([settings.node.ae_title, *known])}: "
                "change it there, or add",
                "[listener]",
                f"further_ae_titles = {toml_value([*known, called])}",
            )
        elif verdict == CALLING_AE_NOT_RECOGNISED:
            yield _about_calling(settings, calling, address)
        elif row["meaning"] == LOCAL_LIMIT_EXCEEDED.meaning:
            peer = next((one for one in settings.peers if one.ae_title == calling), None)
            yield _lines(
                f"{calling} opened more associations than it may: let it open fewer, or allow more",
                _heading(peer),
                f"maximum_associations = {2 * (peer.maximum_associations if peer else 20)}",
            )


def _about_calling(settings: Settings, title: str, address: str) -> View:
    """Advice for a caller that is no peer, or calls from another address than its own; ``title``: its AE
    title.
    """
    known = next((peer for peer in settings.peers if peer.ae_title == title), None)
    if known is not None:
        return _lines(
            f"{title} calls from {address}, and check_address allows {known.host or 'no address'} only",
            _heading(known),
            f"host = {toml_value(address)}",
        )
    if "\\" in title or not title:
        return _lines(f"the machine at {address} calls itself {title!r}, no AE title: correct it there")
    titles = {peer.ae_title.upper(): peer.ae_title for peer in settings.peers}
    alike = difflib.get_close_matches(title.upper(), titles, n=1, cutoff=0.8)
    meant = f", which is not {titles[alike[0]]} (case counts): change it there, or add" if alike else ": add"
    return _lines(
        f"the machine at {address} calls itself {title}{meant}",
        "[[peers]]",
        f"name = {toml_value(short_name(title))}",
        f"ae_title = {toml_value(title)}",
        f"host = {toml_value(address)}",
        'may = ["send"]',
    )


def _about_contexts(settings: Settings, found: Record) -> Iterator[View]:
    """Yield advice about the refused presentation contexts in ``found``."""
    taken = accepted_classes(further_classes(settings))
    classes = []
    for row in found["refused_contexts"]:
        context = row["context"]
        if row["classes"] > 1:
            yield _lines(
                f"it offers {row['classes']} classes that we do not take, most likely all that it knows: "
                "nothing to do, unless it is to send one of them (listener.further_storage_classes)"
            )
            continue
        uid = refused_class(context)
        if ": " in context:
            yield _lines(f"no transfer syntax that we take was offered for {context}")
        elif uid and (uid.startswith(_STORAGE) or not uid.startswith(_STANDARD)):
            classes += [uid] if uid not in taken else []
        elif uid:
            yield _lines(f"{context} is not served here; if the machine insists on it, switch it off there")
    if classes:
        yield _lines(
            "it offers classes that this node refuses. Once accepted, objects are stored and start no job:",
            "[listener]",
            f"further_storage_classes = {toml_value([*settings.listener.further_storage_classes, *classes])}",
        )


def _about_objects(settings: Settings, found: Record) -> Iterator[View]:
    """Yield advice about the objects in ``found`` that were refused."""
    for row in found["refused_objects"]:
        sender = next((peer for peer in settings.peers if peer.ae_title == row["calling_ae"]), None)
        if row["status"] == f"{NOT_AUTHORISED.code:04X}":
            if sender is None or "send" not in sender.may:
                yield _lines("it may not send", _heading(sender), 'may = ["send", "receive"]')
        elif row["status"] == f"{TOO_LARGE.code:04X}":
            yield _lines(
                "an object was too large",
                "[listener]",
                f"maximum_object_mib = {2 * settings.listener.maximum_object_mib}",
            )
        elif not row["outdated"]:
            yield _lines(f"objects were refused with {row['status']}: {row['reason']}")


def _about_silence(settings: Settings, may: Collection[str]) -> Iterator[View]:
    """Yield advice about a caller of which nothing came; ``may``: what it may do as a peer."""
    listener = settings.listener
    whether = "If it is to send, let" if "receive" in may else "Let"
    yield _lines(
        f"nothing of it reached this node. {whether} it call {settings.node.ae_title} at this machine, port "
        f"{listener.port}, and look at firewalls on the way"
    )
    if is_address(listener.host) and ipaddress.ip_address(listener.host).is_loopback:
        yield _lines(
            f"the node listens on {listener.host} only, where no other machine gets through",
            "[listener]",
            'host = "0.0.0.0"',
        )


def _heading(peer: PeerSettings | None) -> str:
    """The heading of a peer's table in TOML; None: of a peer that is not configured."""
    return f'[[peers]]  # name = "{peer.name}"' if peer else "[[peers]]  # of this machine"


def _lines(says: str, *lines: str) -> View:
    """An advice for a person: the sentence ``says``, and lines of configuration."""
    return {"says": says, "lines": list(lines)}
