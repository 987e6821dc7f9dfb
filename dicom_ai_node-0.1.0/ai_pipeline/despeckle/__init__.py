"""Ultrasound images with less speckle, made from cleaned ones."""
