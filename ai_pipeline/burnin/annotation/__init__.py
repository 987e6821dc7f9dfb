"""Burned-in annotation: its kinds, which of it a policy removes, and the masks and boxes that cover it."""
