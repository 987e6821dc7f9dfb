"""Series of CT slices and programs that answer for them, as another maker writes them with highdicom."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from dicom_node.base.dicom.uids import derived_uid
from tests.modality import _image, assign, set_pixels
from tests.peers import a_peer, a_receiver

THICKNESS = 2.5  # mm, between the slices of a series


def ct_slices(
    name: str, count: int, *, series: str = "1", side: int = 128, contrast: float = 1.0
) -> list[Dataset]:
    """An axial series of pydicom's public test image CT_small, moved by a pixel from slice to slice."""
    public = dcmread(get_testdata_file("CT_small.dcm"))
    pixels = np.tile(public.pixel_array, (-(-side // 128), -(-side // 128)))[:side, :side]
    return [
        _slice(name, series, number, (np.roll(pixels, number, 0) * contrast).astype(np.uint16))
        for number in range(1, count + 1)
    ]


def _slice(name: str, series: str, number: int, pixels: np.ndarray) -> Dataset:
    ds = _image(name, "CT", CTImageStorage, series, number)
    assign(
        ds,
        BodyPartExamined="CHEST",
        PatientPosition="HFS",
        FrameOfReferenceUID=derived_uid("test", name, "frame of reference"),
        PositionReferenceIndicator="",
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        ImagePositionPatient=[-40, -40, number * THICKNESS],
        SliceThickness=THICKNESS,
        SliceLocation=number * THICKNESS,
        PixelSpacing=[0.66, 0.66],
        RescaleIntercept=-1024,
        RescaleSlope=1,
        RescaleType="HU",
        WindowCenter=40,
        WindowWidth=400,
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
        KVP=120,
        AcquisitionNumber=1,
        SeriesDescription="Chest",
    )
    set_pixels(ds, pixels, "MONOCHROME2", 16)
    return ds


READS = """
import json, os, sys
from pathlib import Path
source, target = map(Path, sys.argv[1:3])
files = sorted(source.iterdir(), key=lambda file: int(file.stem))
"""
COUNTS = f"""{READS}
(target / "findings.json").write_text(json.dumps({{"findings": []}}))
"""
"""Looks at nothing."""


def program(folder: Path, code: str) -> Path:
    """A program of these lines."""
    script = folder / "program.py"
    script.write_text(code)
    return script


def configuration(
    script: Path,
    *,
    results: tuple[str, ...] = ("sr", "sc"),
    rule: Any = None,
    attempts: int = 2,
    **options: Any,
) -> dict[str, Any]:
    """A node with one rule, which gives CT to a program; one PACS."""
    command = [sys.executable, str(script), "{input}", "{output}"]
    return {
        "assembly": {"quiet_seconds": 0, "quiet_seconds_us": 0},
        "workers": {"retry_seconds": 0, "attempts": attempts},
        "peers": [a_peer("modality", may=["send"]), a_receiver("pacs", results=list(results))],
        "rules": [
            {
                "name": "lungs",
                "when": {"modality": "CT"},
                "pipeline": "command",
                "send_to": ["pacs"],
                "max_study_age_days": 0,
                "options": {"command": command, "model": "lungs", "version": "1.2", **options},
                **(rule or {}),
            }
        ],
    }


SEGMENTS_AND_REPORTS = f"""{READS}
import highdicom as hd
import numpy as np
from pydicom import dcmread
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

slices = [dcmread(file) for file in files]
volume = np.stack([one.pixel_array for one in slices])
masks = volume > np.percentile(volume, THRESHOLD)
algorithm = hd.AlgorithmIdentificationSequence(
    name="Lungs", version="1.2", family=codes.DCM.ArtificialIntelligence
)
segment = hd.seg.SegmentDescription(
    segment_number=1, segment_label="Lung", segmented_property_category=codes.SCT.Organ,
    segmented_property_type=codes.SCT.Lung, algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
    algorithm_identification=algorithm, tracking_uid=hd.UID(), tracking_id="lung",
)
maker = dict(manufacturer="Maker", manufacturer_model_name="Lungs")
seg = hd.seg.Segmentation(
    source_images=slices, pixel_array=masks.astype(np.uint8)[..., None],
    segmentation_type=hd.seg.SegmentationTypeValues.BINARY, segment_descriptions=[segment],
    series_instance_uid=hd.UID(), series_number=300, sop_instance_uid=hd.UID(), instance_number=1,
    software_versions="1.2", device_serial_number="1", omit_empty_frames=False, **maker,
)
observer = hd.sr.ObserverContext(
    observer_type=codes.DCM.Device,
    observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(uid=hd.UID(), name="Lungs"),
)
volume_mm3 = float(masks.sum()) * 0.66 * 0.66 * 2.5
group = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
    tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier="lung"),
    referenced_segment=hd.sr.ReferencedSegment(
        seg.SOPClassUID, seg.SOPInstanceUID, segment_number=1,
        source_series=hd.sr.SourceSeriesForSegmentation(slices[0].SeriesInstanceUID),
    ),
    finding_type=codes.SCT.Lung,
    algorithm_id=hd.sr.AlgorithmIdentification(name="Lungs", version="1.2"),
    measurements=[
        hd.sr.Measurement(
            name=codes.SCT.Volume, value=volume_mm3, unit=codes.UCUM.CubicMillimeter,
        )
    ],
)
report = hd.sr.MeasurementReport(
    observation_context=hd.sr.ObservationContext(observer_device_context=observer),
    procedure_reported=codes.LN.CTUnspecifiedBodyRegion, imaging_measurements=[group],
    title=codes.DCM.ImagingMeasurementReport,
)
sr = hd.sr.Comprehensive3DSR(
    evidence=[*slices, seg], content=report, series_number=301, series_instance_uid=hd.UID(),
    sop_instance_uid=hd.UID(), instance_number=1, manufacturer="Maker", is_complete=True, is_final=False,
)
seg.save_as(target / "seg.dcm")
sr.save_as(target / "sr.dcm")
"""
"""Another maker's program: a mask by a threshold (per cent of the samples below it), and a report on it."""


def segments_and_reports(threshold: float = 80, then: str = "") -> str:
    """The code of that program; ``then``: further lines, which see ``seg``, ``sr`` and ``slices``."""
    return SEGMENTS_AND_REPORTS.replace("THRESHOLD", str(threshold)) + then


def copies(folder: Path) -> str:
    """The code of a program that returns what lies in ``folder`` at that time."""
    return f"{READS}\nimport shutil\nshutil.copytree({str(folder)!r}, target, dirs_exist_ok=True)\n"


def answer(folder: Path, slices: list[Dataset], threshold: float = 80, then: str = "") -> Path:
    """Let the program answer in this process, for programs that copy it; returns the folder of its answer."""
    source, target = folder / f"slices {threshold}", folder / "answer"
    source.mkdir()
    target.mkdir(exist_ok=True)
    for number, one in enumerate(slices, start=1):
        one.save_as(source / f"{number}.dcm", enforce_file_format=True)
    given, sys.argv = sys.argv, ["program.py", str(source), str(target)]
    try:
        exec(segments_and_reports(threshold, then), {})
    finally:
        sys.argv = given
    return target
