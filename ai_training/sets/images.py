"""A picture of an image set as a record, and how tables and pictures are read from disk."""

import csv
import gzip
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import open_dicom
from ai_training.base import DataMissing

Pixels = npt.NDArray[np.uint8]
DICOM = (".dcm", ".dicom")


def rows(table: Path, split: str | None = None, needs: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a CSV file (or .csv.gz) by the names in its first line; with ``split`` only rows of that
    split.

    Raises DataMissing, also if a column of ``needs`` is missing.
    """
    if not table.is_file():
        raise DataMissing(
            f"{table} is missing: --data must name a folder laid out as docs/reference/data-sets.md says"
        )
    opened = gzip.open if table.suffix == ".gz" else open
    try:
        with opened(table, "rt", newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, found = reader.fieldnames or (), list(reader)
    except (UnicodeDecodeError, csv.Error, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataMissing(f"{table} cannot be read: a table (CSV, UTF-8) was expected") from error
    if missing := [name for name in needs if name not in columns]:
        raise DataMissing(f"{table} has no column {', '.join(missing)}")
    return [row for row in found if split in {None, row.get("split")}]


def number(row: dict[str, str], column: str, table: Path) -> float:
    """The number in a column of a table row. Raises DataMissing with the table, the column and the wrong
    value.
    """
    try:
        return float(row[column])
    except (ValueError, TypeError, KeyError) as error:
        raise DataMissing(f"{table}: column {column} holds no number but {row.get(column)!r}") from error


def lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank. Raises DataMissing."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataMissing(f"{path} cannot be read: a list (text, UTF-8) was expected") from error


def read_grey(path: Path) -> Pixels:
    """A picture as grey levels ``[rows, columns]``, 0 to 255; DICOM as its header says. Raises
    DataMissing.
    """
    picture = _read(path, cv2.IMREAD_GRAYSCALE)
    return picture if picture.ndim == 2 else np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), np.uint8)


def read_rgb(path: Path) -> Pixels:
    """A picture as RGB ``[rows, columns, 3]``, 0 to 255. Raises DataMissing."""
    picture = _read(path, cv2.IMREAD_COLOR)
    code = cv2.COLOR_GRAY2RGB if picture.ndim == 2 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(picture, code), np.uint8)


def size_of(path: Path) -> tuple[int, int]:
    """Rows and columns of a picture, from its header. Raises DataMissing."""
    try:
        if path.suffix.lower() in DICOM:
            header = open_dicom(path).header
            return header.rows, header.columns
        with Image.open(path) as opened:
            return opened.height, opened.width
    except (PixelError, OSError, UnidentifiedImageError) as error:
        raise _no_picture(path) from error


def _read(path: Path, how: int) -> Pixels:
    """Grey, or the colours of OpenCV in their order."""
    if path.suffix.lower() in DICOM:
        try:
            shown = open_dicom(path).display()
        except (PixelError, OSError) as error:
            raise _no_picture(path) from error
        return shown if shown.ndim == 2 else shown[:, :, ::-1]
    image = cv2.imread(str(path), how)
    if image is None:
        raise _no_picture(path)
    return np.asarray(image, np.uint8)


def _no_picture(path: Path) -> DataMissing:
    kinds = "a PNG, JPEG, GIF, BMP or DICOM picture was expected"
    return DataMissing(f"{path} is not an image that can be read: {kinds if path.is_file() else 'no file'}")


LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
YOUNGEST = 16  # years; the model is for adults


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask in a file. ``bits``: the bits of a pixel that count; ``outlined``: only the line of an ellipse
    is drawn, and its inside belongs to the mask, also where the picture cuts the ellipse.
    """

    path: Path
    bits: int = 255
    outlined: bool = False

    def read(self, shape: tuple[int, ...] | None = None) -> npt.NDArray[np.bool_]:
        """Read the mask ``[rows, columns]``, at the file's size or resized to ``shape``. Raises
        DataMissing.
        """
        drawn = read_grey(self.path) & self.bits
        rows, columns = shape or drawn.shape
        if abs(drawn.shape[0] / drawn.shape[1] - rows / columns) > 0.01:
            raise DataMissing(f"{self.path} is no mask of its picture: it has another format")
        found = cv2.resize(drawn, (columns, rows), interpolation=cv2.INTER_NEAREST)
        if self.outlined:
            points = cv2.findNonZero(found)
            if points is None or len(points) < 5:
                raise DataMissing(f"{self.path} draws no ellipse")
            cv2.ellipse(found, cv2.fitEllipse(points), 255, -1)
        return np.asarray(found > 0)


@dataclass(frozen=True, slots=True)
class SetBox:
    """The corners (left, top, right, bottom) of a finding, in pixels of a square of ``side`` with the picture
    in its middle.
    """

    label: str
    corners: tuple[float, float, float, float]
    side: float


@dataclass(frozen=True, slots=True)
class SetImage:
    """One picture of a set, in the form that every reader returns.

    ``name``: its name in the set. ``patient``: no patient is in two splits. ``split``: train, val, test, or
    empty if the set has none. ``labels``: findings that are present; ``unsure``: findings that are neither
    present nor absent. ``masks`` by the outlined structure. ``age`` in years, NaN if unknown. ``source``: the
    part of the set, ``repository``: where that part came from. ``soft``: a teacher's probabilities of
    :data:`LABELS`. ``measures``: further numbers by name.
    """

    name: str
    path: Path
    patient: str
    split: str = ""
    labels: frozenset[str] = frozenset()
    unsure: frozenset[str] = frozenset()
    boxes: tuple[SetBox, ...] = ()
    masks: Mapping[str, MaskFile] = field(default_factory=dict)
    age: float = math.nan
    sex: str = ""
    view: str = ""
    source: str = ""
    repository: str = ""
    soft: tuple[float, ...] | None = None
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageSet:
    """The set that a reader finds in a folder. ``title``: name and source, for cards. ``labels``: the labels
    that the set covers. The rest as in :class:`ChestSet`.
    """

    title: str
    images: tuple[SetImage, ...]
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    main: str = ""
    natural: tuple[str, ...] = ()
    left_out: Mapping[tuple[str, str], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChestImage:
    """One image: its file and the facts known about it.

    ``labels`` as :data:`LABELS`, 0 or 1, NaN if not known. ``soft``: a teacher's probabilities of them.
    ``split`` is train, val, test, or empty if the manifest has none. ``source`` is the part of its set,
    ``repository`` where that part came from. ``age`` in years, NaN if unknown.
    """

    path: Path
    labels: tuple[float, ...]
    soft: tuple[float, ...] | None
    patient: str
    split: str
    source: str
    repository: str
    age: float
    sex: str
    view: str

    @property
    def adult(self) -> bool:
        """Whether the patient is known to be old enough for the intended use."""
        return self.age >= YOUNGEST

    def is_in(self, split: str) -> bool:
        """True when the image belongs to ``split``, or when its manifest has no splits."""
        return self.split in {split, ""}


@dataclass(frozen=True, slots=True)
class TruthBox:
    """A radiologist's box in corner coordinates of an image of ``side`` × ``side`` pixels.

    ``file``: the image's name in the list of boxes, ``path``: where the image is.
    """

    file: str
    label: str
    left: float
    top: float
    right: float
    bottom: float
    split: str
    path: Path = Path()
    side: float = 512.0
    patient: str = ""
    adult: bool = True

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """``(left, top, right, bottom)`` in pixels."""
        return self.left, self.top, self.right, self.bottom


@dataclass(frozen=True, slots=True)
class ChestSet:
    """Images with the facts that a fair measurement needs.

    ``main``: the source whose figures come first. ``natural``: the sources whose images were not chosen by
    disease. ``labels``: the set's labels. ``left_out``: why a label of a source is not measured. ``notes``
    are printed with the figures. ``title``: name and source, for cards.
    """

    name: str
    images: tuple[ChestImage, ...]
    boxes: tuple[TruthBox, ...]
    main: str
    natural: tuple[str, ...] = ()
    labels: tuple[str, ...] = LABELS
    left_out: Mapping[tuple[str, str], str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    title: str = ""


def corners(box: TruthBox) -> tuple[float, float, float, float]:
    """``(left, top, right, bottom)`` as shares of the image's side, cut at the image's edges."""
    left, top, right, bottom = (min(max(edge / box.side, 0.0), 1.0) for edge in box.corners)
    return left, top, right, bottom
