"""What the options of the node's own pipelines are called in a form, and which values they choose from.

A pipeline says of each option only its type (:class:`ai_pipeline.contract.Pipeline`); ``docs/admin.md`` has
all of it. Options of other packages' pipelines are shown by their keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class PipelineOption:
    """``usual``: what the pipeline does without it, in words. ``choices``: its values, none for any."""

    label: str
    usual: str = "no"
    choices: tuple[str, ...] = ()
    note: str = ""


PIPELINES: Final[Mapping[str, str]] = {
    "ultrasound": "Ultrasound: finds what is burned into the picture, and hands back a cleaned image.",
    "chest_xray": "Frontal chest X-rays of adults: findings with boxes, and the cardiothoracic ratio.",
    "fetal_head": "Ultrasound stills of a fetal head: head circumference, BPD and OFD.",
    "ovarian": "Ultrasound frames of the female pelvis: class and outline of a cyst. For research.",
}

OPTIONS: Final[Mapping[str, Mapping[str, PipelineOption]]] = {
    "ultrasound": {
        "policy": PipelineOption(
            "What is removed",
            "clinical",
            ("clinical", "research"),
            "clinical: what names the patient; research: every text and mark",
        ),
        "dates": PipelineOption(
            "Date of the examination", "remove", ("remove", "keep"), "under the policy clinical only"
        ),
        "keep_words": PipelineOption(
            "Words that are no names", "none", note="of your site, such as R-CY; L-M; under clinical only"
        ),
        "clean": PipelineOption("Cleaned image and its mask", "yes"),
        "measurements": PipelineOption("Lengths written in the image", note="handed back for review"),
        "despeckle": PipelineOption("A copy with less speckle", note="beside the cleaned image"),
        "any_modality": PipelineOption("Take other modalities too", note="text only, no drawn marks"),
    },
    "chest_xray": {
        "operating_point": PipelineOption(
            "When a finding is called",
            "specific",
            ("specific", "balanced", "sensitive"),
            "specific: few false alarms; sensitive: few findings missed",
        ),
        "ratio": PipelineOption(
            "Cardiothoracic ratio", "PA", ("PA", "all", "off"), "all: AP and unknown projections too"
        ),
        "heatmaps": PipelineOption("Heat maps", note="of every finding that is present"),
        "outlines": PipelineOption("Heart and lungs as Segmentation"),
        "clean": PipelineOption("Picture without its text", note="where that can be verified"),
        "all_labels": PipelineOption("All labels", note="also those that their test figures do not support"),
        "prevalence": PipelineOption(
            "How common findings are here", "as in training", note="such as Effusion = 0.05; Mass = 0.01"
        ),
    },
    "fetal_head": {},
    "ovarian": {
        "pelvis": PipelineOption("All are of the female pelvis", note="also where no header says so"),
        "outlines": PipelineOption("Outline as Segmentation", "yes"),
        "heatmaps": PipelineOption("Heat maps", note="of the class that is present"),
        "malignancy": PipelineOption("Report malignant too", note="for research: seen 36 times in training"),
    },
}
