"""Speckle in ultrasound: models of it, networks that reduce it, and the effect on later processing."""
