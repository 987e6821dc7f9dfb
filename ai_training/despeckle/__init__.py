"""Speckle in ultrasound: models of it, networks that reduce it, and what that does to what comes after."""
