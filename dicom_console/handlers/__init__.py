"""The handlers, one file per noun: programs get their results as JSON, people as pages (``web/faces.py``)."""
