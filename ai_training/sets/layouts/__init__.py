"""Readers of image sets as they are published, a module for each family, all behind one ``SetLayout``."""
