"""Measure models: figures with intervals, beside those of simple baselines."""
