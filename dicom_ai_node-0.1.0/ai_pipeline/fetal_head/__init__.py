"""Fetal heads in ultrasound: outlined, gated and measured (head circumference, BPD, OFD)."""
