"""Image sets by their layouts: recognised by the content of a folder, or chosen by name.

A new layout is a :class:`~ai_training.sets.layout.SetLayout` in :data:`LAYOUTS`, and a line in
docs/reference/data-sets.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from ai_training.errors import DataMissing
from ai_training.sets import chexpert, lungs, nih, public, radiologists, table, ultrasound
from ai_training.sets.images import ImageSet, SetImage

LAYOUTS = (
    public.LAYOUT,
    nih.LAYOUT,
    *radiologists.LAYOUTS,
    chexpert.LAYOUT,
    chexpert.MIMIC,
    *lungs.LAYOUTS,
    *ultrasound.LAYOUTS,
    table.LAYOUT,
    table.FOLDER,
)
_NAMED: ContextVar[str] = ContextVar("layout of --data", default="")


@contextmanager
def named(layout: str) -> Iterator[None]:
    """A context in which ``--data`` is read in the layout of this name. Raises DataMissing for an unknown
    name.
    """
    if layout not in (names := [one.name for one in LAYOUTS]):
        raise DataMissing(f"no layout is named {layout!r}: {', '.join(names)}")
    token = _NAMED.set(layout)
    try:
        yield
    finally:
        _NAMED.reset(token)


def read_data(data: Path, kind: str) -> ImageSet:
    """The set of ``kind`` that ``--data`` names. Raises DataMissing."""
    if name := _NAMED.get():
        layout = next(one for one in LAYOUTS if one.name == name)
        if kind not in layout.kinds:
            raise DataMissing(f"layout {name} is of {', '.join(layout.kinds)}, not of {kind}")
        if layout.needs and not layout.lies_in(data) and not (data.is_file() and layout is table.LAYOUT):
            raise DataMissing(f"{data} is not laid out as {name}: looked for {', '.join(layout.needs)}")
        return layout.read(data)
    return read_set(data, kind)


def read_set(where: Path, kind: str) -> ImageSet:
    """The set of ``kind`` in the folder ``where``, in its only sub-folder of a known layout, or in the table
    ``where``.

    Raises DataMissing.
    """
    if where.is_file():
        return table.read(where)
    known = [layout for layout in LAYOUTS if kind in layout.kinds]
    for folders in ((where,), sorted(path for path in where.glob("*") if path.is_dir())):
        found = [(layout, folder) for folder in folders for layout in known if layout.lies_in(folder)]
        if len({folder for _, folder in found}) == 1:
            layout, folder = found[0]
            return layout.read(folder)
    looked = "; ".join(f"{layout.name}: {', '.join(layout.needs)}" for layout in known if layout.needs)
    raise DataMissing(
        f"{where} holds no {kind} in a layout of docs/reference/data-sets.md. Looked for {looked}"
    )


def named_set(data: Path, name: str, kind: str) -> ImageSet:
    """The set in the folder ``name`` of ``data``, or in ``data`` itself. Raises DataMissing."""
    return read_set(data / name, kind) if (data / name).is_dir() else read_data(data, kind)


def part_of_set(folder: Path, split: str) -> tuple[SetImage, ...]:
    """The pictures of ``split`` in ``folder``, whatever they show; none if the folder is missing or has no
    known layout. Raises DataMissing if it cannot be read.
    """
    layout = next((one for one in LAYOUTS if one.lies_in(folder)), None)
    return tuple(image for image in layout.read(folder).images if image.split == split) if layout else ()
