"""The training engine: one loop on Lightning Fabric for all networks.

``setup``: device, precision and what else a user chooses for a run; ``run``: the loop; ``checkpoint``: its
state on disk; ``records``: history, plot, TensorBoard and MLflow.
"""
