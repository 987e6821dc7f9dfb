"""The handlers that entered peers and entered rules share, and their versions."""

from collections.abc import Mapping
from typing import Any

from fastapi import Response

from dicom_console.web.faces import Asked, DespiteHold, Edition, Faces, Keys, Name, Number, Visit
from dicom_console.web.languages import N_, SAVED
from dicom_node.base.lifecycle import UserRole
from dicom_node.people import Row, configured
from dicom_node.people.configured import Kind

faces = Faces()


@faces.handler("GET", "/entered", UserRole.ADMIN, lambda asked, rows: asked.page("entered.html", rows=rows))
def list_versions(asked: Asked) -> list[Row]:
    """The versions of all entered peers and rules, the newest first: when, by whom, and what was changed."""
    return configured.entered_versions(asked.settings)


@faces.handler(
    "POST",
    "/entered/{number}/undo",
    UserRole.ADMIN,
    lambda asked, saved: asked.in_force(SAVED, "/entered", *saved["warnings"], name=saved["name"]),
)
def undo(asked: Asked, number: Number, despite_hold: DespiteHold = False) -> Row:
    """Have all entered peers and rules as in an earlier version."""
    asked.take_over()  # once it is answered, and not after a refusal
    return configured.undo_to(asked.settings, number, asked.person, despite_hold=despite_hold)


def add_handlers(faces: Faces, kind: Kind) -> None:
    """Add the handlers that save a peer or rule (for programs; people have a form) and remove one."""
    one = kind.removesuffix("s")

    def put_one(
        asked: Asked, name: Name, keys: Keys, version: Edition = None, despite_hold: DespiteHold = False
    ) -> Row:
        return put(asked, kind, configured.from_keys(kind, name, keys), version, despite_hold=despite_hold)

    def remove_one(asked: Asked, name: Name, version: Edition = None) -> None:
        configured.remove_entry(asked.settings, kind, name, version, asked.person)
        asked.take_over()

    def removed(asked: Visit, _done: None) -> Response:
        return asked.in_force(N_("%(name)s is removed."), f"/{kind}", name=asked.request.path_params["name"])

    # FastAPI describes the REST API by these.
    put_one.__name__, put_one.__doc__ = f"put_{one}", f"Add a {one}, or change one that was entered."
    remove_one.__name__, remove_one.__doc__ = f"remove_{one}", f"Take a {one} out that was entered."
    path = f"/{kind}/{{name}}"
    faces.handler("PUT", path, UserRole.ADMIN)(put_one)
    faces.handler("DELETE", path, UserRole.ADMIN, removed, at=f"{path}/remove")(remove_one)


def put(
    asked: Visit, kind: Kind, content: Mapping[str, Any], version: int | None, *, despite_hold: bool
) -> Row:
    """Save a peer or rule, and let the node load the changed configuration.

    Raises the errors of ``entered.save``.
    """
    saved = configured.save_entry(
        asked.settings, kind, content, version, asked.person, despite_hold=despite_hold
    )
    asked.take_over()
    return saved
