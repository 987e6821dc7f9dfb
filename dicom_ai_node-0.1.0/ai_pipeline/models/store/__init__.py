"""The store of models: versions side by side, one of them active; what comes in is checked first."""
