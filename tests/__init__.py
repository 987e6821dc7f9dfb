"""The tests. A package by name: others install a ``tests`` of theirs (Hershey-Fonts, for one),
which would hide a folder without this file.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""
