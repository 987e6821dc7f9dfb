"""The shipped card of the classifier."""

import pytest

from ai_pipeline.chest.card import CLASSIFIER
from ai_pipeline.models.registry import Card, find


@pytest.fixture(scope="module")
def shipped() -> Card:
    return find(CLASSIFIER.shipped, None)
