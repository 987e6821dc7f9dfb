"""The card of the pipeline ``fetal_head``."""

from typing import Final

from ai_pipeline.contract import PipelineCard
from ai_pipeline.fetal_head import biometry
from ai_pipeline.fetal_head.intended_use import MODALITIES

CARD: Final = PipelineCard(
    name="fetal_head",
    version="1.5",
    about="Ultrasound stills of a fetal head: head circumference, BPD (outer-outer) and OFD.",
    intended_use=(
        "Still ultrasound pictures of one fetal head, to measure its size from ten weeks on. It dates no "
        "pregnancy, tells no weight, and nothing of brain or skull; a sonographer checks plane and ellipse."
    ),
    per_image=False,  # one picture that names a fetus says of all that there are several
    modalities=MODALITIES,
    region=biometry.HEAD,
    outlines=(biometry.HEAD,),
    measures=biometry.MEASURES,
)
