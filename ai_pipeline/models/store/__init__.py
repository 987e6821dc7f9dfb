"""The store of models: versions side by side, one of them active; a new model is checked before
it is added.
"""
