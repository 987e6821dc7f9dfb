"""The card of the pipeline ``ovarian``: its description and its options."""

from __future__ import annotations

from typing import Final

from ai_pipeline.contract import Code, PipelineCard, PipelineOptions, option
from ai_pipeline.ovarian.intended_use import MODALITIES


class OvarianOptions(PipelineOptions):
    """Options of the pipeline ``ovarian``."""

    pelvis: bool = option(False, "All are of the female pelvis", "also where no header says so")
    """The images that the rule names are of the female pelvis, also where their header says nothing."""
    outlines: bool = option(True, "Outline as Segmentation")
    """The outline of the lesion as a Segmentation, for peers that take `seg`."""
    heatmaps: bool = option(False, "Heat maps", "of the class that is present")
    """The activation of the class that is present, over the cleaned picture, for peers that take
    `heatmap`."""
    malignancy: bool = option(False, "Report malignant too", "for research: seen 36 times in training")
    """Report the malignant class too. It was seen 36 times in training: for research only."""


LESION = Code("52988006", "SCT", "Lesion")  # PS3.16 CID 7151
CARD: Final = PipelineCard(
    name="ovarian",
    version="1.3",
    about="Ultrasound frames of the female pelvis: class and outline of a cyst. For research.",
    intended_use=(
        "Single B-mode frames of the female pelvis with an ovarian cyst or tumour, for research. No answer "
        "excludes cancer, and a radiologist reads every frame as before."
    ),
    options=OvarianOptions,
    modalities=MODALITIES,
    outlines=(LESION,),
    region=Code("816092008", "SCT", "Pelvis"),
)
