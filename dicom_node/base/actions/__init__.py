"""What a person lists or does is declared once, at the function that does it: see ``action.py``."""
