"""Pixels to findings: the models, usable without the node (``ai-pipeline run FILE``).

This package knows no network, no database and nothing of ``dicom_node``.
"""
