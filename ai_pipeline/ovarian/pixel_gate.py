"""Whether the pixels of a picture may be of the kind that the ovarian model was made for."""

from __future__ import annotations

from pathlib import Path

from ai_pipeline.fetal_head.outline import HeadModel
from ai_pipeline.models.registry import find
from ai_pipeline.ovarian.classifier import Grey, OvarianAnalysis, OvarianClassifier, grey_of

NOT_LIKE = "the pixels do not look like an ultrasound frame of an ovary"
A_HEAD = "the pixels show a fetal head"
HEAD_MODEL = "fetal-head-unet"


class PixelGate:
    """The classifier's own gate, and the model of fetal heads: a round head may look like a large cyst."""

    def __init__(self, classifier: OvarianClassifier, models_dir: Path | None = None) -> None:
        """Raises CardError where a model is missing or altered."""
        self.classifier = classifier
        self._heads = HeadModel.of(find(HEAD_MODEL, models_dir))

    def refused(self, picture: Grey, analysis: OvarianAnalysis) -> str | None:
        """Why ``picture``, uint8, RGB or grey, must not be classified; None if it may be."""
        if not self.classifier.in_domain(analysis):
            return NOT_LIKE
        return None if self._heads.outline(grey_of(picture)).fault else A_HEAD
