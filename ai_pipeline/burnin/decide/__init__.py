"""Decide what a text in a picture means and whether it goes; places known to hold text; shapes of masks."""
