"""The frontal chest film of the demonstration, which is drawn: nobody's chest.

``python -m tests.drawn_chest`` writes it anew.
"""

import cv2
import numpy as np
import numpy.typing as npt
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import DigitalXRayImageStorageForPresentation, JPEGLSLossless, generate_uid

from dicom_node.people.demo import DRAWN_FILM
from tests.modality import WHEN, data_set

Plane = npt.NDArray[np.float64]

_SIDE = 1024
_Y, _X = np.mgrid[0:_SIDE, 0:_SIDE] / _SIDE  # all places and lengths: in sides of the picture
# Attributes of the modules of DX that are the same in each object (PS3.3 C.8.11).
_COMMON: dict[str, object] = {
    "SpecificCharacterSet": "ISO_IR 192",
    "ReferringPhysicianName": "",
    "StudyID": "1",
    "SeriesNumber": 1,
    "InstanceNumber": 1,
    "StudyDescription": "Chest, drawn by a program",
    "Modality": "DX",
    "Manufacturer": "dicom-ai-node",
    "ManufacturerModelName": "tests/drawn_chest.py",
    "InstitutionName": "Demonstration",
    "StationName": "XRAY1",
    "DeviceSerialNumber": "1",
    "SoftwareVersions": "1",
    "ImageType": ["ORIGINAL", "PRIMARY", ""],
    "PresentationIntentType": "FOR PRESENTATION",
    "BodyPartExamined": "CHEST",
    "PatientOrientation": ["L", "F"],
    "ViewPosition": "PA",
    "SeriesDescription": "DRAWN, NO PATIENT",
    "PatientName": "Drawn^Chest",
    "PatientID": "DRAWN-1",
    "PatientSex": "O",
    "PatientBirthDate": "19660101",
    "PatientAge": "060Y",
    "AccessionNumber": "DRAWN-1",
    "ImageLaterality": "U",
    "BurnedInAnnotation": "YES",
    "LossyImageCompression": "00",
    "PositionerType": "",
    "AcquisitionContextSequence": [],
    "DetectorType": "DIRECT",
    "DetectorConfiguration": "AREA",
    "PixelIntensityRelationship": "LOG",
    "PixelIntensityRelationshipSign": -1,
    "RescaleIntercept": 0,
    "RescaleSlope": 1,
    "RescaleType": "US",
    "PresentationLUTShape": "IDENTITY",
    "WindowCenter": 128,
    "WindowWidth": 256,
}


def drawn_film() -> Dataset:
    """DX For Presentation (PS3.3 A.26) of the drawn chest, 8 bit."""
    values = _COMMON | {
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "SOPInstanceUID": generate_uid(None, ["drawn chest", "instance"]),
        "StudyInstanceUID": generate_uid(None, ["drawn chest", "study"]),
        "SeriesInstanceUID": generate_uid(None, ["drawn chest", "series"]),
        "AnatomicRegionSequence": [CodedConcept.from_code(codes.cid4031.Chest)],
        "ViewCodeSequence": [CodedConcept.from_code(codes.cid4010.PosteroAnterior)],
        "ImagerPixelSpacing": [round(400 / _SIDE, 4)] * 2,  # a film of 40 cm
        **WHEN,
    }
    ds = data_set(**values)
    ds.set_pixel_data(drawn_chest(), "MONOCHROME2", 8, generate_instance_uid=False)
    ds.compress(JPEGLSLossless, generate_instance_uid=False)
    return ds


def drawn_chest() -> npt.NDArray[np.uint8]:
    """An adult's chest with a large heart: centimetres of tissue and bone, and what rays they let through.

    Bright = dense. The patient's right is on the left.
    """
    chance = np.random.default_rng(20260102)
    beside = np.abs(_X - 0.5)
    tissue = 20 * np.sqrt(
        np.clip(1 - (beside / (0.10 + 0.40 / (1 + np.exp((0.10 - _Y) / 0.018)))) ** 6, 0, 1)
    )
    lungs, bones, vessels = (np.zeros((_SIDE, _SIDE)) for _ in range(3))
    along = np.linspace(0, 1, 40)
    for way, base in ((-1, 0.74), (1, 0.775)):
        out, level = (_X - 0.5) * way, (_Y - 0.10) / (base - 0.10)
        lateral = 0.385 * np.sqrt(1 - np.clip((0.66 - level) / 0.72, 0, 1) ** 2.4)
        below = base - 0.085 * (1 - ((out - 0.19) / 0.20) ** 2) - _Y
        inside = np.minimum.reduce([lateral - out, out - 0.05, below, _Y - 0.10])
        depth = np.clip(1 - ((out - lateral / 2 - 0.02) / np.maximum(lateral / 2, 0.02)) ** 2, 0, 1) ** 0.4
        air = (0.3 + 0.7 * depth) * (0.55 + 0.45 * np.clip(level * 2.2, 0, 1))
        lungs += air / (1 + np.exp(np.clip(-inside / 0.003, -40, 40)))
        for rib in range(10):
            reach = 0.19 + 0.20 * min(1, (rib + 0.3) / 4.5) ** 0.7
            back = 0.075 + 0.068 * rib - 0.035 * np.sin(along * np.pi) + (0.03 + 0.014 * rib) * along**2
            sideways = 0.035 + (reach - 0.035) * np.sin(along * np.pi / 2)
            bones += 0.9 * _tube(0.5 + way * sideways, back, 0.013)
            front = back[-1] + 0.015 + (0.09 + 0.012 * rib) * along**0.8
            sideways = reach - (reach - 0.17 - 0.012 * rib) * along**1.3
            bones += 0.5 * (rib < 7) * _tube(0.5 + way * sideways, front, 0.015)
        down = 0.165 - 0.06 * along - 0.02 * np.sin(along * 2 * np.pi)
        bones += 1.1 * _tube(0.5 + way * (0.045 + 0.33 * along), down, 0.015)  # the collarbone
        twigs = [(0.5 + way * 0.085, 0.41, angle, 0.0085) for angle in np.linspace(-1.25, 1.35, 8)]
        while twigs:
            across, down, angle, width = twigs.pop()
            bends = angle + np.cumsum(chance.normal(0, 0.09, 6))
            x = across + way * np.cumsum(np.cos(bends)) * 0.008
            y = down + np.cumsum(np.sin(bends)) * 0.008
            vessels += 130 * width * _line(x, y, max(1, round(2 * width * _SIDE)))
            if width > 0.0017:
                turns = bends[-1] + np.array([-0.35, 0.35]) + chance.normal(0, 0.15, 2)
                twigs += [(x[-1], y[-1], turn, width * 0.74) for turn in turns]
    for number in range(16):
        disc = ((_Y - 0.02 - 0.062 * number) / 0.027) ** 8 + (beside / (0.032 + 0.0008 * number)) ** 8
        bones += 0.4 * np.exp(-disc) + 0.25 * _ball(0.5, 0.035 + 0.062 * number, 0.006, 0.018)
    organs = np.maximum.reduce(
        [
            6.0 * _ball(0.587, 0.615, 0.262, 0.125, 0.45),  # the heart
            4.5 * _ball(0.472, 0.60, 0.116, 0.125, 0.1),
            4.0 * _ball(0.505, 0.30, 0.062, 0.36),
            3.4 * _ball(0.558, 0.315, 0.042, 0.05),  # the aorta
            2.8 * _ball(0.560, 0.40, 0.042, 0.06),
        ]
    )
    organs += 2.0 * (_ball(0.41, 0.43, 0.028, 0.075, 0.15) + _ball(0.595, 0.40, 0.026, 0.06, -0.15))
    tissue += np.clip(2 * lungs, 0, 1) * (organs + cv2.GaussianBlur(vessels, (0, 0), 1.2))
    hollow = 14.5 * lungs + 1.6 * _ball(0.5, 0.15, 0.02, 0.26) + 4 * _ball(0.64, 0.80, 0.055, 0.035, 0.2)
    tissue += cv2.GaussianBlur(chance.normal(0, 1, (_SIDE, _SIDE)), (0, 0), 5) - hollow
    light = np.exp(-0.21 * tissue - 0.55 * bones)
    light = cv2.GaussianBlur(0.75 * light + 0.25 * cv2.GaussianBlur(light, (0, 0), 45), (0, 0), 1.0)
    film = -np.log(chance.poisson(light * 1e5 + 2) / 1e5 + 1e-4)
    film += 0.6 * (film - cv2.GaussianBlur(film, (0, 0), 40))
    low, high = np.percentile(film[:, _SIDE // 10 : -_SIDE // 10], [1, 99.5])
    drawn = (255 * np.clip((film - low) / (high - low), 0, 1)).astype(np.uint8)
    return cv2.putText(
        drawn, "DRAWN, NO PATIENT", (24, 44), cv2.FONT_HERSHEY_SIMPLEX, 0.9, 200, 2, cv2.LINE_AA
    )


def _ball(x: float, y: float, wide: float, high: float, turn: float = 0.0) -> Plane:
    """The depth of an ellipsoid, 1 in its middle; ``turn`` in radians."""
    across = (_X - x) * np.cos(turn) + (_Y - y) * np.sin(turn)
    down = (_Y - y) * np.cos(turn) - (_X - x) * np.sin(turn)
    return np.clip(1 - (across / wide) ** 2 - (down / high) ** 2, 0, 1) ** 0.4


def _line(x: Plane, y: Plane, pixels: int) -> Plane:
    """1 on a line through these places."""
    drawn = np.zeros((_SIDE, _SIDE), np.float32)
    places = np.int32(np.stack([x, y], 1) * _SIDE * 16)
    return cv2.polylines(drawn, [places], False, 1.0, pixels, cv2.LINE_AA, 4)


def _tube(x: Plane, y: Plane, width: float) -> Plane:
    """A bone along a line: dense walls, marrow between them."""
    away = cv2.distanceTransform((_line(x, y, 1) < 0.5).astype(np.uint8), cv2.DIST_L2, 5) / _SIDE / width
    return np.sqrt(np.clip(1 - away**2, 0, 1)) - 0.5 * np.sqrt(np.clip(1 - (away / 0.75) ** 2, 0, 1))


if __name__ == "__main__":
    drawn_film().save_as(DRAWN_FILM, enforce_file_format=True)
