"""Verbs that set up, start, check and save a node."""
