"""The handlers that entered peers and entered rules share, and their versions."""

from collections.abc import Mapping
from typing import Any

from fastapi import Response

from dicom_console.web.faces import (
    ConsoleRequest,
    CurrentRequest,
    DespiteHold,
    Edition,
    Faces,
    Keys,
    Name,
    Number,
)
from dicom_console.web.languages import N_, SAVED
from dicom_node.people import Row, entered
from dicom_node.people.entered import Kind

faces = Faces()


@faces.handler(
    "GET", "/entered", entered.entered_versions, lambda request, rows: request.page("entered.html", rows=rows)
)
def list_versions(request: CurrentRequest) -> list[Row]:
    """Return the versions of all peers and rules that were added in the console, the newest first.

    Each says when and by whom it was saved, and what was changed.
    """
    return entered.entered_versions(request.settings)


@faces.handler(
    "POST",
    "/entered/{number}/undo",
    entered.undo_to,
    lambda request, saved: request.in_force(SAVED, "/entered", *saved["warnings"], name=saved["name"]),
)
def undo(request: CurrentRequest, number: Number, despite_hold: DespiteHold = False) -> Row:
    """Give all peers and rules that were added in the console the settings of an earlier version.

    ``despite_hold``: also if results then go out that a rule now holds back for a person.
    """
    request.take_over()  # once it is answered, and not after a refusal
    return entered.undo_to(request.settings, number, request.person, despite_hold=despite_hold)


def add_handlers(faces: Faces, kind: Kind) -> None:
    """Publish the handlers that save a peer or rule (REST only; people have a form) and remove one.

    ``kind``: "peers" or "rules".
    """
    one = kind.removesuffix("s")

    def put_one(
        request: CurrentRequest,
        name: Name,
        keys: Keys,
        version: Edition = None,
        despite_hold: DespiteHold = False,
    ) -> Row:
        """Save the peer or rule ``name`` (the docstring for the REST API is set below)."""
        return put(request, kind, entered.from_keys(kind, name, keys), version, despite_hold=despite_hold)

    def remove_one(request: CurrentRequest, name: Name, version: Edition = None) -> Row:
        """Remove the peer or rule ``name`` (the docstring for the REST API is set below)."""
        removed = entered.remove_entry(request.settings, kind, name, version, request.person)
        request.take_over()
        return removed

    def removed(request: ConsoleRequest, done: Row) -> Response:
        """Return the page that says that the peer or rule is removed."""
        return request.in_force(N_("%(name)s is removed."), f"/{kind}", *done["warnings"], name=done["name"])

    # FastAPI describes the REST API by these.
    put_one.__name__, put_one.__doc__ = f"put_{one}", f"Add a {one}, or change one that was entered."
    remove_one.__name__, remove_one.__doc__ = f"remove_{one}", f"Take a {one} out that was entered."
    path = f"/{kind}/{{name}}"
    faces.handler("PUT", path, entered.save_entry)(put_one)
    faces.handler("DELETE", path, entered.remove_entry, removed, at=f"{path}/remove")(remove_one)


def put(
    request: ConsoleRequest,
    kind: Kind,
    content: Mapping[str, Any],
    version: int | None,
    *,
    despite_hold: bool,
) -> Row:
    """Save a peer or rule, let the node load the changed configuration, and return the stored row with
    warnings.

    ``kind``: "peers" or "rules"; ``version``: the version that was changed, None for whichever is stored;
    ``despite_hold``: also if results then go out that a rule now holds back. Raises the errors of
    ``configured.save_entry``.
    """
    saved = entered.save_entry(
        request.settings, kind, content, version, request.person, despite_hold=despite_hold
    )
    request.take_over()
    return saved
