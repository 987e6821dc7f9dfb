"""The tests. A package by name: others install a ``tests`` of theirs (Hershey-Fonts, for one),
which would hide a folder without this file.
"""
