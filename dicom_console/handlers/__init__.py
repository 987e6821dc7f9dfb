"""The handlers, one file per noun. Each returns JSON to programs and a page to people (``web/faces.py``)."""
