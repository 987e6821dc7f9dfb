"""Names of findings as sets write them, and ours."""

from __future__ import annotations

OURS = {
    "Infiltrate": "Infiltration",
    "Pleural Thickening": "Pleural_Thickening",
    "Pleural thickening": "Pleural_Thickening",
    "Pleural Effusion": "Effusion",
    "Pleural effusion": "Effusion",
    "Pulmonary fibrosis": "Fibrosis",
    "Lung Opacity": "Lung_Opacity",
    "Diffuse Nodule": "Nodule",
}


def ours(name: str) -> str:
    """``name`` as the classifier knows it; itself where that knows no such finding."""
    return OURS.get(name, name)
