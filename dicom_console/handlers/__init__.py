"""The handlers, a file for each noun: what programs get as JSON, people get as a page (``web/faces.py``)."""
