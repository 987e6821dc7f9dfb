"""Loading of the configuration from files: all mistakes are reported together (exit status 78)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from dicom_node.config.crosscheck import cross_check
from dicom_node.config.mistakes import described
from dicom_node.config.renamed import take_former_names
from dicom_node.config.sections import ENTERED_FILE
from dicom_node.config.settings import Settings
from dicom_node.config.toml_files import Place, TomlFiles
from dicom_node.errors import ConfigurationError


def load(files: Sequence[Path]) -> Settings:
    """Read one or more TOML files (peers and rules may be in separate files).

    Relative paths in the files count from the current folder. It is a mistake if such a path names an empty
    data folder while the node's data folder lies beside the first file. Raises ConfigurationError with every
    mistake.
    """
    settings, read = examine(files)
    if read.problems or settings is None:
        raise ConfigurationError(read.problems)
    return settings


def load_to_read(files: Sequence[Path]) -> tuple[Settings, int]:
    """The settings for programs that only read the database, without faulty keys; and the number of these
    keys.

    Raises ConfigurationError if the mistakes concern the location of the database.
    """
    settings, read = examine(files)
    if settings is None or any(problem.key.split(".")[0] in ("node", "file") for problem in read.problems):
        raise ConfigurationError(read.problems)
    return settings, len(read.problems)


def examine(files: Sequence[Path]) -> tuple[Settings | None, TomlFiles]:
    """The settings without faulty keys, and the files with their mistakes.

    The settings are None if no key is left, or if a file could not be read: defaults must not replace its
    content.
    """
    read = TomlFiles.read(files)
    entered = _entered_file(read)
    if os.access(entered, os.R_OK):  # who may not read it may not change the node either
        in_files = len(read.numbered_names("peers"))
        read.add_file(entered)
        for number, _ in read.numbered_names("peers")[in_files:]:
            read.data["peers"][number]["entered"] = True
    settings = examined(read)
    if settings is not None:
        _refuse_another_folder(settings.node.data_dir, files[0].resolve().parent, read)
    return settings, read


def examined(read: TomlFiles) -> Settings | None:
    """The settings without faulty keys; each mistake is added to the mistakes of ``read``."""
    take_former_names(read)
    try:
        settings: Settings | None = Settings.model_validate(read.data)
    except ValidationError as error:
        mistakes = list(described(error, Settings))
        for place, known, remedy in mistakes:
            value = read.shown(place, read.at(place)) if known else ""  # a misspelt key may hold a password
            read.add_unless_known(place, value, remedy)
        settings = _what_is_left(read, [place for place, _, _ in mistakes])
    if settings is None or read.unread:
        return None
    cross_check(settings, read)
    return settings


def _refuse_another_folder(given: Path, beside: Path, read: TomlFiles) -> None:
    """Started elsewhere, a relative data folder would be a second, empty node, which lists would show."""
    if not given.is_absolute() and not _has_a_node(given) and _has_a_node(beside / given):
        meant = (beside / given).resolve()
        remedy = (
            f"is {given.resolve()} in the folder you are in, where no node is, and {meant} is one: "
            f"start this in {beside}, or write the whole path"
        )
        read.add_named("node.data_dir", repr(str(given)), remedy)


def _has_a_node(folder: Path) -> bool:
    """Not of one that cannot be looked into: who opens it says why."""
    return any(os.access(folder / name, os.F_OK) for name in ("node.db", "spool"))


def _entered_file(read: TomlFiles) -> Path:
    """Peers and rules that a person entered, in the data folder that the files name."""
    given = read.at(("node", "data_dir"))
    default = Settings.model_fields["node"].get_default().data_dir
    return (Path(given) if isinstance(given, str) else Path(default)) / ENTERED_FILE


def _what_is_left(read: TomlFiles, keys: Sequence[Place]) -> Settings | None:
    """Settings without the faulty keys, so that the other mistakes can be found in the same run."""
    tables = [place[:2] for place in keys]  # a required key cannot be left out: its peer or rule goes
    for places in (keys, tables):
        with suppress(ValidationError):
            return Settings.model_validate(read.without(places))
    return None
