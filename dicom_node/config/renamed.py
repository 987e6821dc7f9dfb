"""Settings of former versions (docs/deploy/upgrade.md): a renamed one counts with a warning, a removed one is
a mistake that names what to do instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dicom_node.config.toml_files import Place, TomlFiles

RENAMED: Mapping[str, str] = {}
"""Former name → present name in the same table, as ``{"peers.max_associations": "maximum_associations"}``.

An entry stays for one minor release at least; then the former name is an unknown key.
"""
REMOVED: Mapping[str, str] = {
    "console.ldap": "is gone: use [console.oidc]; Entra ID, AD FS and Keycloak offer it for a directory",
}
"""Removed setting or table → what to do instead."""


def take_former_names(read: TomlFiles) -> None:
    """Rename settings to their present names. A setting under both names, or a removed one, is a mistake."""
    for key, remedy in REMOVED.items():
        *path, former = key.split(".")
        for table in list(_tables(read.data, path)):
            if former in read.at(table):
                read.add((*table, former), "", remedy)
                del read.at(table)[former]
    for key, present in RENAMED.items():
        *path, former = key.split(".")
        for table in list(_tables(read.data, path)):
            at = read.at(table)
            if former in at and present in at:
                read.add(
                    (*table, former), "", f"is the former name of {present}, which is set too: take it out"
                )
                del at[former]
            elif former in at:
                read.rename(table, former, present)


def _tables(data: object, path: list[str], place: Place = ()) -> Iterator[Place]:
    """The places of all tables at ``path``: one for each peer where it is a list of tables."""
    if isinstance(data, list):
        for number, item in enumerate(data):
            yield from _tables(item, path, (*place, number))
    elif isinstance(data, dict) and path:
        yield from _tables(data.get(path[0]), path[1:], (*place, path[0]))
    elif isinstance(data, dict):
        yield place
