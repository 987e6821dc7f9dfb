"""Stored data on burned-in annotation: readings, and reviews of its cleaning."""
