"""Burned-in annotation: find it, fill it, prove that nothing legible is left. Fails closed."""
