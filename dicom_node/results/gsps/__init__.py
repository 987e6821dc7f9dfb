"""Presentation states (PS3.3 A.33)."""
