"""Results of the demonstration: objects fetched from the PACS and written with previews."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import open_dicom


@dataclass(frozen=True, slots=True)
class Returned:
    """One object in the PACS. ``kind``: the kind of result, or "source"."""

    kind: str
    sop_instance_uid: str
    path: Path
    preview: Path | None


def write(folder: Path, objects: Sequence[bytes], kinds: Mapping[str, str]) -> list[Returned]:
    """Write objects to ``folder``/pacs, with previews of the images beside. ``kinds``: by SOP Instance UID.

    Files of an earlier run are replaced.
    """
    _clear(folder)
    (folder / "pacs").mkdir(parents=True)
    headers = [(dcmread(BytesIO(data), stop_before_pixels=True), data) for data in objects]
    headers.sort(key=lambda pair: _order(pair[0], kinds))
    written: list[Returned] = []
    for number, (header, data) in enumerate(headers, start=1):
        uid = str(header.SOPInstanceUID)
        kind = kinds.get(uid, "source")
        path = folder / "pacs" / f"{number:02d}-{kind}.dcm"
        path.write_bytes(data)
        written.append(Returned(kind, uid, path, _preview(path, folder / f"{number:02d}-{kind}.png")))
    return written


def _order(header: Dataset, kinds: Mapping[str, str]) -> tuple[bool, str, int, str]:
    """Sources first, then results by kind and number."""
    kind = kinds.get(str(header.SOPInstanceUID), "")
    return bool(kind), kind, int(header.get("InstanceNumber") or 0), str(header.SOPInstanceUID)


def _preview(path: Path, target: Path) -> Path | None:
    """The middle frame as a viewer shows it; None for what has no pixels."""
    if not dcmread(path, specific_tags=["Rows"], stop_before_pixels=True).get("Rows"):
        return None
    try:
        image = open_dicom(path)
        picture = image.display(image.header.frames // 2)
    except PixelError:
        return None
    Image.fromarray(picture).save(target)
    return target


def _clear(folder: Path) -> None:
    shutil.rmtree(folder / "pacs", ignore_errors=True)
    for preview in folder.glob("[0-9][0-9]-*.png"):
        preview.unlink()
