"""Translate names of findings in published sets to the classifier's names."""

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
    """The classifier's name for the finding ``name``; ``name`` itself if the classifier does not know it."""
    return OURS.get(name, name)
