"""The trial of a chest classifier (:mod:`ai_pipeline.models.trial`), as a program."""

from collections.abc import Callable

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.contract import Floats, Grey
from ai_pipeline.errors import CardError
from ai_pipeline.models import trial
from ai_pipeline.models.registry import Card


def loaded(card: Card) -> Callable[[Grey], Floats]:
    """Load the classifier of ``card``; returns the function from a picture to its logits. Raises
    CardError.
    """
    if card.plays("outline"):
        raise CardError(f"{card.name} is no chest model: it outlines lesions (--pipeline ovarian)")
    model = Classifier(card)
    return lambda picture: model.analyse(picture).logits


if __name__ == "__main__":
    trial.main(loaded)
