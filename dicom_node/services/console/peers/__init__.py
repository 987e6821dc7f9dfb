"""Peers at the console: who they are, what they show, how they and we keep to the standard."""
