"""The DICOM AI node: receives studies, runs ``ai_pipeline``, returns results to the PACS."""

from importlib.metadata import version

__version__ = version("dicom-ai-node")
