"""Connectors: protocols that the node speaks besides DICOM, each in a folder, found by entry points."""
