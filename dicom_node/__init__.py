"""The DICOM AI node: receives studies, runs ``ai_pipeline``, returns results to the PACS."""

import gc
from importlib.metadata import version

gc.set_threshold(5_000)  # of 700: every process imports a thousand modules, a fifth of which time was this
__version__ = version("dicom-ai-node")
