"""Peers: their settings, and whether they answer."""

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

from dicom_node.base.actions.action import Action, Input, all_of
from dicom_node.base.actions.columns import Column, fields, yes_no
from dicom_node.base.actions.nouns import PEERS
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import every
from dicom_node.base.errors import ExitCode, Unavailable
from dicom_node.base.lifecycle import AuditAction, UserRole
from dicom_node.base.store.views import View
from dicom_node.people import Row, audit, writing
from dicom_node.people.audit import Person

if TYPE_CHECKING:
    from dicom_node.deliver.scu import Check


_tests = threading.Semaphore(2)
SECRET: Final = ("username", "password", "token")


def _address(row: Any) -> str:
    """The address of a peer as text: its URL, or host and port."""
    return row["url"] or (f"{row['host']}:{row['port'] or '–'}" if row["host"] else "–")


@Action(
    PEERS,
    "list",
    "List the configured peers; passwords are not shown.",
    columns=(
        *fields("name", "ae_title", "may"),
        Column("address", _address),
        *fields("transport"),
        Column("results", lambda row: row["results"] if "receive" in row["may"] else "–"),
        Column("confirm", lambda row: row["confirm"] if "receive" in row["may"] else "–"),
    ),
    none="No peers are configured.",
)
def list_peers(settings: Settings) -> list[View]:
    """The settings of the configured peers, without their secrets."""
    return [peer.model_dump(mode="json", exclude={*SECRET}) for peer in settings.peers]


@Action(
    PEERS,
    "test",
    "Try all that delivery to a peer, and questions to it, need; nothing is stored or retrieved.",
    "pacs --config node.toml",
    columns=(*fields("peer", "check"), yes_no("", "ok", "ok", "FAILED"), *fields("says: text")),
    none="No peer may receive or be queried.",
    status=all_of("ok", ExitCode.UNAVAILABLE),
    role=UserRole.OPERATOR,
)
def try_peers(
    settings: Settings,
    names: Annotated[
        Sequence[str],
        Input("Names; default: all that may receive or be queried.", metavar="[PEER]...", default=()),
    ],
    by: Person | None = None,
) -> list[Row]:
    """Test what delivery, queries and reports to these peers need; returns a row for each test.

    ``names``: empty for all peers that the node calls. ``by``: the person for the audit; None for the command
    line, which needs no database. The rows have ``peer``, ``check``, ``ok`` and ``text``. Raises NotFound,
    Unavailable.
    """
    chosen = [settings.peer(name) for name in names] or [one for one in settings.peers if one.is_called]
    # A peer that hangs keeps its place until its deadline.
    if not _tests.acquire(blocking=False):
        raise Unavailable("Other tests are under way: try again when they are done.")
    try:
        rows = [
            Row(peer=peer.name, check=check.name, ok=check.ok, text=check.text)
            for peer in chosen
            for check in test_peer(peer, settings)
        ]
    finally:
        _tests.release()
    if by is not None:
        with writing(settings) as session:
            audit.note(
                session,
                by,
                AuditAction.PEER_TESTED,
                peers=[peer.name for peer in chosen],
                failed=sorted({row["check"] for row in rows if not row["ok"]}),
            )
    return rows


def test_peer(peer: PeerSettings, settings: Settings) -> "Iterator[Check]":
    """Test what the node needs of one peer; yields a result for each test."""
    from dicom_node.deliver.scu import open_archive, open_commitment, open_destination

    if "receive" in peer.may or not peer.is_called:
        yield from open_destination(peer, settings).test()
    if "query" in peer.may:
        yield from open_archive(peer, settings).test()
    if peer.commit_after:
        yield open_commitment(peer, settings).check()
    for test in every("peer_tests"):
        yield from test(peer, settings)
