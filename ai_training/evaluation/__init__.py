"""Measure models: figures that a sceptic accepts, with what they are worth beside simple answers."""
