"""The trial of an ovarian model (:mod:`ai_pipeline.models.trial`), as a program."""

from collections.abc import Callable

from ai_pipeline.contract import Floats, Grey
from ai_pipeline.models import trial
from ai_pipeline.models.registry import Card
from ai_pipeline.ovarian.pipeline import Outliner, OvarianClassifier


def loaded(card: Card) -> Callable[[Grey], Floats]:
    """Load classifier and outline network of ``card``; returns the function that runs both on a picture and
    gives its probabilities. Raises CardError.
    """
    model, outliner = OvarianClassifier(card), Outliner(card)

    def scores(picture: Grey) -> Floats:
        """Run both networks on ``picture``."""
        found = model.analyse(picture)
        outliner.outline(found)
        return found.probabilities

    return scores


if __name__ == "__main__":
    trial.main(loaded)
