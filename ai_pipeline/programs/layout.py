"""The input folder of a program: copies of the images, arranged as its maker's platform arranges them.

``numbered``: ``1.dcm``, ``2.dcm`` …; ``map``: the same in a folder for each series, as MONAI application
packages get them; ``mercure``: :mod:`ai_pipeline.programs.mercure`. A copy has the bytes of the image, unless
the program needs values that the image lacks, or uncompressed pixels.
"""

import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from ai_pipeline.contract import Progress, SourceImage
from ai_pipeline.errors import ProgramFailed
from ai_pipeline.images.decode import DicomImage, DicomObject
from ai_pipeline.images.numbers import DAMAGE, is_empty
from ai_pipeline.programs import mercure
from ai_pipeline.programs.card import ProgramOptions

_FILLED: Mapping[str, str | int] = {"SeriesDescription": "Series", "SeriesNumber": 1}
"""Values that mercure's modules read without asking whether they are there."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """A DICOM file that a program gets. ``header``: its data set without pixels; ``image``: its pixels, None
    where they are not decoded here.
    """

    path: Path
    header: Dataset = field(repr=False)  # it holds the patient's name
    uid: str
    series_uid: str
    image: DicomImage | None


def input_file(source: SourceImage) -> InputFile | None:
    """The file of an image or of another DICOM object; None for a picture. Raises ProgramFailed."""
    if isinstance(source, DicomImage):
        return InputFile(source.path, source.dataset, source.uid, source.series_uid, source)
    if isinstance(source, DicomObject) and source.path:
        with _as_it_is():
            header = pydicom.dcmread(source.path, stop_before_pixels=True)
        return InputFile(source.path, header, source.uid, source.series_uid, None)
    return None


@contextmanager
def _as_it_is() -> Iterator[None]:
    """A context manager for pydicom: no warning, as they repeat values; a damaged file is ProgramFailed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except DAMAGE as error:
            raise ProgramFailed("an image cannot be read, or written as the program wants it") from error


@dataclass(frozen=True, slots=True)
class ProgramInput:
    """What a program gets: the files, by the options of its rule; ``report`` is called after each copy."""

    files: Sequence[InputFile]
    options: ProgramOptions
    report: Progress = field(default=lambda _share, _what: None)

    def write(self, folder: Path) -> None:
        """Fill the empty ``folder``, which is then read-only. Raises PixelError, ProgramFailed, OSError, and
        what ``report`` raises.
        """
        fills: Mapping[str, str | int] = _FILLED if self.options.layout == "mercure" else {}
        for number, (file, path) in enumerate(self._places(folder), start=1):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _copy(file, path, fills, decompress=self.options.decompress)
            if self.options.layout == "mercure":
                mercure.write_tags(file.header, path)
            self.report(0.0, f"file {number} of {len(self.files)} is copied")
        self.write_task(folder)
        make_read_only(folder)

    def write_task(self, folder: Path) -> None:
        """Write the ``task.json`` of a module of mercure in place of one that is there."""
        if self.options.layout == "mercure":
            mercure.write_task([file.header for file in self.files], self.options, folder)

    def _places(self, folder: Path) -> Iterator[tuple[InputFile, Path]]:
        """Yield each file and the place of its copy. No path holds a name, and only mercure's hold UIDs."""
        if self.options.layout == "mercure":
            names = mercure.file_names((file.series_uid, file.uid) for file in self.files)
            yield from zip(self.files, (folder / name for name in names), strict=True)
            return
        series: dict[str, int] = {}
        for number, file in enumerate(self.files, start=1):
            within = folder
            if self.options.layout == "map":
                within = folder / f"series{series.setdefault(file.series_uid, len(series) + 1)}"
            yield file, within / f"{number}.dcm"


def make_read_only(folder: Path) -> None:
    """Take the right to write from all files and folders below ``folder`` and from itself."""
    for path in (*folder.rglob("*"), folder):
        if not path.is_symlink():
            path.chmod(0o500 if path.is_dir() else 0o400)


def _copy(file: InputFile, path: Path, fills: Mapping[str, str | int], *, decompress: bool) -> None:
    """Copy a file to ``path``, with values of ``fills`` where it has none. Raises PixelError,
    ProgramFailed.
    """
    missing = {keyword: value for keyword, value in fills.items() if is_empty(file.header, keyword)}
    image = file.image if decompress and file.image and _is_compressed(file.image) else None
    if not (missing or image):
        shutil.copyfile(file.path, path)
        return
    with _as_it_is():
        dataset = pydicom.dcmread(file.path, stop_before_pixels=image is not None)
        for keyword, value in missing.items():
            setattr(dataset, keyword, value)
        if image:
            _set_samples(dataset, image)
        dataset.save_as(path)


def _is_compressed(image: DicomImage) -> bool:
    """Whether a program must decode or inflate to read the pixels."""
    return bool(image.transfer_syntax.is_encapsulated or image.transfer_syntax.is_deflated)


def _set_samples(dataset: Dataset, image: DicomImage) -> None:
    """Give the data set the decoded samples of all frames, uncompressed (PS3.5 A.2). Raises PixelError."""
    frames = [np.ascontiguousarray(image.decoded(index)) for index in range(image.header.frames)]
    [samples, *_] = frames
    dataset.SamplesPerPixel = samples.shape[2] if samples.ndim == 3 else 1
    if samples.ndim == 3:
        dataset.PhotometricInterpretation = "RGB"
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = samples.dtype.itemsize * 8
    data = b"".join(frame.astype(frame.dtype.newbyteorder("<"), copy=False).tobytes() for frame in frames)
    dataset.add_new("PixelData", "OB" if dataset.BitsAllocated == 8 else "OW", data + b"\0" * (len(data) % 2))
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:
            del dataset[keyword]
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
