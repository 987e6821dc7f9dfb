"""Images as modalities make them, synthetic: no picture or patient of anybody."""

import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.base.dicom.uids import derived_uid

ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"
DIGITAL_XRAY = "1.2.840.10008.5.1.4.1.1.1.1"
WHEN = {
    **dict.fromkeys(("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"), "20260102"),
    **dict.fromkeys(("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"), "101500"),
}
"""Dates and times of a study of one moment."""


def ultrasound(
    name: str, *, series: str = "1", number: int = 1, size: tuple[int, int] = (240, 180)
) -> Dataset:
    """A small colour ultrasound with a caption burned in; ``name`` makes study, patient and UIDs."""
    width, height = size
    rng = np.random.default_rng(hash_of(name, series, str(number)) % 2**32)
    speckle = rng.gamma(2.0, 22, (height // 2, width // 2)).clip(0, 200).astype("u1")
    picture = Image.fromarray(speckle).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    drawing = ImageDraw.Draw(picture)
    drawing.rectangle((0, 0, width, 26), fill=(0, 0, 0))
    drawing.text((8, 4), "DEPTH 12 CM", fill=(255, 255, 0), font_size=16)
    return ultrasound_from(name, np.asarray(picture), series=series, number=number)


def ultrasounds(name: str, count: int, **values: Any) -> list[Dataset]:
    """So many images of one series."""
    return [ultrasound(name, number=number, **values) for number in range(1, count + 1)]


def quick_ultrasound(name: str, *, series: str = "1", number: int = 1) -> Dataset:
    """As :func:`ultrasound`, for tests of everything but the pixels: a node cleans it in a fifth of the time,
    most of which is the search for text, and finds one caption.
    """
    width, height = size = 96, 72
    grey = 40 + hash_of(name, series, str(number)) % 100
    picture = Image.new("RGB", size)
    drawing = ImageDraw.Draw(picture)
    drawing.rectangle((0, height // 3, width, height), fill=(grey, grey, grey))
    drawing.text((4, 3), "DOE", fill=(255, 255, 0), font_size=12)
    return ultrasound_from(name, np.asarray(picture), series=series, number=number)


def ultrasound_from(name: str, pixels: np.ndarray, *, series: str = "1", number: int = 1) -> Dataset:
    """A colour ultrasound of these RGB pixels."""
    ds = _image(name, "US", ULTRASOUND, series, number)
    assign(
        ds,
        BodyPartExamined="OVARY",
        Laterality="L",
        PatientOrientation=["R", "F"],
        LossyImageCompression="00",
    )
    set_pixels(ds, pixels, "RGB", 8)
    return ds


def chest(name: str, pixels: np.ndarray, *, series: str = "1", number: int = 1) -> Dataset:
    """A frontal chest X-ray, DX For Presentation, of these 12-bit pixels (bright = dense)."""
    ds = _image(name, "DX", DIGITAL_XRAY, series, number)
    region = data_set(CodeValue="51185008", CodingSchemeDesignator="SCT", CodeMeaning="Chest")
    assign(
        ds,
        PresentationIntentType="FOR PRESENTATION",
        BodyPartExamined="CHEST",
        ViewPosition="PA",
        PatientOrientation=["L", "F"],
        ImageLaterality="U",
        PatientAge="055Y",
        PixelIntensityRelationship="LOG",
        PixelIntensityRelationshipSign=-1,
        RescaleIntercept=0,
        RescaleSlope=1,
        RescaleType="US",
        PresentationLUTShape="IDENTITY",
        WindowCenter=2048,
        WindowWidth=4096,
        ImagerPixelSpacing=[0.143, 0.143],
        BurnedInAnnotation="NO",
        LossyImageCompression="00",
        DetectorType="DIRECT",
        PositionerType="",
        AcquisitionContextSequence=[],
        AnatomicRegionSequence=[region],
    )
    set_pixels(ds, pixels, "MONOCHROME2", 12)
    return ds


def data_set(**values: Any) -> Dataset:
    """A data set with these attributes, by keyword."""
    return assign(Dataset(), **values)


def assign(ds: Dataset, **values: Any) -> Dataset:
    """The data set itself (or a request of pynetdicom), with these attributes."""
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def part_10(ds: Dataset) -> bytes:
    """The data set as a file."""
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def hash_of(*parts: str) -> int:
    """A number that is the same in every process (``hash`` is not)."""
    return int(derived_uid(*parts).rsplit(".", 1)[1])


def set_pixels(ds: Dataset, array: np.ndarray, photometric: str, stored: int) -> None:
    """Native pixel data and the attributes that describe it (PS3.3 C.7.6.3)."""
    in_colour = array.ndim > 2 and array.shape[-1] == 3
    rows, columns = array.shape[-3:-1] if in_colour else array.shape[-2:]
    assign(
        ds,
        SamplesPerPixel=3 if in_colour else 1,
        PhotometricInterpretation=photometric,
        **{"PlanarConfiguration": 0} if in_colour else {},
        Rows=rows,
        Columns=columns,
        BitsAllocated=array.dtype.itemsize * 8,
        BitsStored=stored,
        HighBit=stored - 1,
        PixelRepresentation=0,
        PixelData=array.tobytes() + b"\0" * (array.nbytes % 2),
    )
    ds["PixelData"].VR = "OW" if ds.BitsAllocated > 8 else "OB"


def name_in_japanese(ds: Dataset) -> None:
    """A name in three ways of writing (PS3.5 H.3.1)."""
    assign(
        ds, SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう"
    )


def add_overlay(ds: Dataset) -> None:
    """A line in an overlay plane beside the pixels (PS3.3 C.9.2)."""
    plane = np.zeros((ds.Rows, ds.Columns), np.uint8)
    plane[ds.Rows // 2, ds.Columns // 4 : ds.Columns // 2] = 1
    bits = np.packbits(plane.ravel(), bitorder="little").tobytes()
    for tag, vr, value in (
        (0x60000010, "US", ds.Rows),
        (0x60000011, "US", ds.Columns),
        (0x60000040, "CS", "G"),
        (0x60000050, "SS", [1, 1]),
        (0x60000100, "US", 1),
        (0x60000102, "US", 0),
        (0x60003000, "OW", bits + b"\0" * (len(bits) % 2)),
    ):
        ds.add_new(tag, vr, value)


def _image(name: str, modality: str, sop_class: str, series: str, number: int) -> Dataset:
    uid = derived_uid("test", name, "instance", series, str(number))
    ds = data_set(
        SpecificCharacterSet="ISO_IR 192",
        SOPClassUID=sop_class,
        SOPInstanceUID=uid,
        StudyInstanceUID=derived_uid("test", name, "study"),
        SeriesInstanceUID=derived_uid("test", name, "series", series),
        AccessionNumber="A" + name[-12:],
        StudyID="1",
        Modality=modality,
        Manufacturer="Test Maker",
        ManufacturerModelName="Test Scanner",
        InstitutionName="Test Hospital",
        StationName="TEST",
        ReferringPhysicianName="Referrer^Test",
        StudyDescription="Test study",
        PatientName=f"Test^{name}",
        PatientID=f"ID-{name}",
        PatientBirthDate="19700101",
        PatientSex="F",
        SeriesNumber=int(series),
        InstanceNumber=number,
        ImageType=["ORIGINAL", "PRIMARY"],
        **WHEN,
    )
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = sop_class, uid
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds
