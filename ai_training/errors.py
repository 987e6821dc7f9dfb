"""The errors that this package raises on purpose. Each text says the remedy.

``except TrainingError`` catches all of them; its two branches: the data, the experiment.
"""


class TrainingError(Exception):
    """Base of all errors of ``ai_training``."""


class DataMissing(TrainingError, OSError):
    """The folder or manifest does not hold the images that training and evaluation need."""


class ExperimentError(TrainingError, ValueError):
    """An experiment file that cannot be used, or a run that belongs to another experiment or recipe."""
