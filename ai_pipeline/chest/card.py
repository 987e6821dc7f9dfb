"""The card of the pipeline ``chest_xray``: its description and its options."""

from collections.abc import Mapping
from typing import Final

from ai_pipeline.chest import intended_use
from ai_pipeline.chest.anatomy import ORGANS
from ai_pipeline.chest.calls import OperatingPoint
from ai_pipeline.chest.ratio import CARDIOTHORACIC_RATIO, HEART_ENLARGED, WIDTH, Projections
from ai_pipeline.contract import (
    LOOK_FIRST,
    Code,
    MeasuredQuantity,
    ModelSlot,
    PipelineCard,
    PipelineOptions,
    option,
)


class ChestOptions(PipelineOptions):
    """Options of the pipeline ``chest_xray``."""

    operating_point: OperatingPoint | None = option(
        None,
        "When a finding is called",
        "specific: few false alarms; sensitive: few findings missed",
        usual="specific",
    )
    """From which probability a finding is suspected. `specific`: few false alarms (at most one in ten
    films without any finding gets one), most findings missed, "unclear" only where `balanced` would call;
    `balanced`: the higher of Youden's index and a specificity of .9 for each label; `sensitive`: few findings
    missed; calls are wrong too often there for the shipped model to suspect anything. [models.md](models.md)
    has thresholds and figures; every result says which was used. A model without these (its card has no
    `[operating_points]`) knows `balanced` only."""
    ratio: Projections = option(Projections.PA, "Cardiothoracic ratio", "all: AP and unknown projections too")
    """The cardiothoracic ratio, with its lines: `PA`: of films whose View Position, View Code
    or stamp says PA, and that are not stamped as AP films;
    `all`: of AP and unknown projections too, where the result says that it is not comparable; `off`."""
    heatmaps: bool = option(False, "Heat maps", "of every finding that is present")
    """A heat map of every finding that is present."""
    outlines: bool = option(False, "Heart and lungs as Segmentation")
    """Heart, right lung and left lung as a Segmentation, for peers that take `seg`."""
    clean: bool = option(False, "Picture without its text", "where that can be verified")
    """The picture without the text burned into it, where that can be verified."""
    all_labels: bool = option(False, "All labels", "also labels that their test figures do not support")
    """Report also the labels that their test figures do not support."""
    prevalence: Mapping[str, float] | None = option(
        None,
        "How common findings are here",
        "such as Effusion = 0.05; Mass = 0.01",
        usual="as in training",
        wanted="a table of label = share, such as { Effusion = 0.05 }",
    )
    """Share of your patients that have a finding, by label. Probabilities are calibrated at the prevalence
    that the card names; here they and their thresholds are shifted to yours by Bayes' rule (Saerens et al.,
    2002), and the report says it. No decision changes, but a label that is too seldom right at your
    prevalence is not assessed; how many calls are right ("of 10 such calls, about 3 are right") then holds
    for your patients too. True where the finding looks the same and is only rarer or more common."""


CLASSIFIER: Final = ModelSlot("chest_xray", "chest-efficientnet-lite0", "classifier")

CARD: Final = PipelineCard(
    name="chest_xray",
    version="1.9",
    about="Frontal chest X-rays of adults: findings with boxes, and the cardiothoracic ratio.",
    intended_use=(
        "Frontal chest X-rays of adults (CR, DX), to draw a reader's eye to findings that may be there. It "
        "excludes nothing, and looks for nothing but the labels of its model."
    ),
    options=ChestOptions,
    modalities=intended_use.MODALITIES,
    views=intended_use.FRONTAL - {""},
    auto_for=frozenset({"CR", "DX", "DR"}),
    region=Code("816094009", "SCT", "Chest"),
    recognises="a chest film",
    outlines=ORGANS,
    measures=(
        MeasuredQuantity(
            "Cardiothoracic ratio",
            CARDIOTHORACIC_RATIO,
            "those of the cardiothoracic ratio are the widths of heart and chest",
        ),
        MeasuredQuantity("Heart width", WIDTH),
        MeasuredQuantity("Thoracic width", WIDTH),
    ),
    calls=(HEART_ENLARGED, LOOK_FIRST),
    slots=(CLASSIFIER,),
)
