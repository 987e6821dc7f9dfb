"""Connectors: what the node speaks besides DICOM, a folder each, which it finds by their entry points."""
