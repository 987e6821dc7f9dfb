"""The training engine: one loop on Lightning Fabric for all networks.

``setup``: device, precision and the user's other choices for a run; ``run``: the loop; ``checkpoint``: the
run's state on disk; ``records``: history, plot, TensorBoard and MLflow.
"""
