"""What training and evaluation may complain of."""


class ExperimentError(ValueError):
    """An experiment file that cannot be used, or a run that belongs to another experiment."""
