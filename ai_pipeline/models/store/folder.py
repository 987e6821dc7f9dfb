"""The user's folder of models: ``ID/VERSION/card.toml`` with its weights, and which of them is in use.

``active.json`` holds, for each slot (``PipelineCard.slots``), a stack of ``id@version`` whose last entry is
in use, and a history that only grows. An empty stack means the shipped model. Every file is written under
another name and then moved to its place at once, so a crash leaves the old state; a running node reads the
folder when a worker starts.
"""

import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from ai_pipeline.contract import ModelSlot
from ai_pipeline.errors import CardError
from ai_pipeline.models.registry import NAME, STORED, Card, Weights, find, from_environment, load, verify
from ai_pipeline.models.store.sandbox import inspect

ACTIVE = "active.json"
_INCOMING = ".incoming-"
_LOCK = ".lock"
_FOR_ALL = 0o644  # the node runs as another user than who adds models; nothing here is secret


class StoreEvent(BaseModel):
    """A change of the active model: ``model`` was put into use ``at`` a time (UTC), ``by`` the command
    activate or rollback.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: datetime
    model: str
    by: str


class Use(BaseModel):
    """Which models were activated for one slot: the last of ``stack`` is active, and ``rollback`` removes
    it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stack: tuple[str, ...] = ()
    history: tuple[StoreEvent, ...] = ()


_USES = TypeAdapter(dict[str, Use])


def active(slot: ModelSlot, models_dir: Path | None = None) -> Card:
    """The card of the model that is active in ``slot``. Raises CardError if none is, or its files are gone: a
    pipeline never falls back to another model by itself.
    """
    if (card := in_use(slot, models_dir)) is None:
        raise CardError(f"{slot.name} runs no model: `ai-pipeline models activate`")
    return card


def in_use(slot: ModelSlot, models_dir: Path | None = None) -> Card | None:
    """The model card of the model that is active in ``slot``; None if none is shipped for it and none was
    activated. Raises CardError if the activated model is gone.
    """
    folder = models_dir or from_environment()
    use = uses(folder).get(slot.name, Use()) if folder else Use()
    if not use.stack:
        return find(slot.shipped, models_dir) if slot.shipped else None
    try:
        return find(use.stack[-1], models_dir)
    except CardError as error:
        raise CardError(
            f"{slot.name} is to use {use.stack[-1]}: {error}; put it back, or `ai-pipeline models rollback`"
        ) from error


def uses(models_dir: Path) -> dict[str, Use]:
    """Which models were activated for each slot (replaceable model of a pipeline), by its name; empty when
    none ever was. Raises CardError on a broken file.
    """
    path = models_dir / ACTIVE
    try:
        return _USES.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        raise CardError(f"{path} is not what this program writes: restore it, or delete it") from error


def activate(slot: ModelSlot, card: Card, models_dir: Path) -> None:
    """Make ``card`` the active model of ``slot``. Raises CardError when one of its files is missing or
    altered.
    """
    verify(card)
    with _locked(models_dir):
        now = uses(models_dir)
        use = now.get(slot.name, Use())
        stack = use.stack if use.stack[-1:] == (card.name,) else (*use.stack, card.name)
        used = Use(stack=stack, history=(*use.history, _event(card.name, "activate")))
        _save(models_dir, now, slot.name, used)


def rollback(slot: ModelSlot, models_dir: Path) -> Card | None:
    """Make the previous model of ``slot`` active again; returns its model card, None if no model is shipped
    for the slot. Raises CardError when there is no previous model.
    """
    with _locked(models_dir):
        card = previous_model(slot, models_dir)
        if card is not None:
            verify(card)
        now = uses(models_dir)
        use = now[slot.name]
        event = _event(card.name if card else "", "rollback")
        _save(models_dir, now, slot.name, Use(stack=use.stack[:-1], history=(*use.history, event)))
    return card


def previous_model(slot: ModelSlot, models_dir: Path) -> Card | None:
    """The model card that :func:`rollback` would make active. Raises the errors of ``rollback``."""
    use = uses(models_dir).get(slot.name, Use())
    if not use.stack:
        runs = f"the shipped {slot.shipped}" if slot.shipped else "none"
        raise CardError(f"nothing to roll back: {slot.name} runs {runs}")
    name = use.stack[-2] if len(use.stack) > 1 else slot.shipped
    return find(name, models_dir) if name else None


@contextmanager
def incoming(models_dir: Path) -> Iterator[Path]:
    """A context manager that gives an empty folder in ``models_dir`` for files that are being added; it is
    deleted at the end.
    """
    _folder_for_all(models_dir)
    for left in models_dir.glob(f"{_INCOMING}*"):  # of a process that was killed
        if time.time() - left.stat().st_mtime > 86400.0:  # seconds
            shutil.rmtree(left, ignore_errors=True)
    folder = models_dir / f"{_INCOMING}{secrets.token_hex(6)}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def add(folder: Path, card_file: Path, weights: Weights, models_dir: Path, source: str) -> Card:
    """Add the files in ``folder`` (of :func:`incoming`) to ``models_dir`` as a model; returns its card.
    ``card_file``: its model card, beside which the card's other files are. ``weights``: the file that is in
    ``folder`` already. ``source``: where it comes from, without secrets; it is stored with the licence, to
    which the user agreed. All files are checked against their hashes and by :func:`inspect`. Raises
    CardError.
    """
    shutil.copyfile(card_file, folder / STORED)
    for other in load(card_file).weights:
        if other.path.name != weights.path.name and other.path.parent == card_file.parent:
            try:
                shutil.copyfile(other.path, folder / other.path.name)
            except OSError as error:
                why = f"the card names {other.path.name} too, which cannot be read beside it"
                raise CardError(why) from error
    card = load(folder / STORED)
    verify(card)
    inspect([part.path for part in card.weights])
    written = {"at": _now().isoformat(), "source": source, "licence": card.licence}
    (folder / "origin.json").write_text(json.dumps(written, indent=1), encoding="utf-8")
    place = place_for(card, models_dir)
    _folder_for_all(place.parent)
    for path in folder.iterdir():
        path.chmod(_FOR_ALL)
        _sync(path)
    folder.chmod(0o755)
    try:
        folder.rename(place)
    except OSError as error:  # two at once: the first has it
        raise CardError(_exists_already(card, models_dir)) from error
    _sync(place.parent)
    return load(place / STORED)


def place_for(card: Card, models_dir: Path) -> Path:
    """The folder in which ``card`` is stored. Raises CardError if its id or version is no valid folder name,
    or is taken.
    """
    for what, value in (("id", card.id), ("version", card.version)):
        if not NAME.fullmatch(value):
            raise CardError(
                f"{card.path}: {what} {value!r} must be letters, digits, '.', '_', '+' and '-', 64 at most"
            )
    place = models_dir / card.id / card.version
    if place.exists():
        raise CardError(_exists_already(card, models_dir))
    return place


def _exists_already(card: Card, models_dir: Path) -> str:
    """The sentence that refuses a model which the folder has already."""
    return f"{card.name} is in {models_dir} already: give other weights another version"


def _folder_for_all(folder: Path) -> None:
    """Create a folder that every user may read."""
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)


def _event(model: str, verb: str) -> StoreEvent:
    """Make an entry of the history: the command ``verb`` made ``model`` active now."""
    return StoreEvent(at=_now(), model=model, by=verb)


def _now() -> datetime:
    """The present time in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def _save(models_dir: Path, now: dict[str, Use], slot: str, use: Use) -> None:
    """Replace the file of active models in one step: the slot ``slot`` gets ``use``, all other slots stay as
    in ``now``.
    """
    path = models_dir / f".{ACTIVE}.new"
    path.write_bytes(_USES.dump_json(now | {slot: use}, indent=1))
    path.chmod(_FOR_ALL)
    _sync(path)
    path.replace(models_dir / ACTIVE)
    _sync(models_dir)


@contextmanager
def _locked(models_dir: Path) -> Iterator[None]:
    """A context manager that holds the lock under which the active models are changed."""
    if not models_dir.is_dir():
        raise CardError(f"the folder of models {models_dir} does not exist")
    with (models_dir / _LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sync(path: Path) -> None:
    """Make a file, or the names in a folder, durable (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
