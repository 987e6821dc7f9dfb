"""The reader of small letters: lines to learn from, its training, its figures."""
