"""Synthetic chest X-rays for a rare label: made by DCGAN and PGGAN, judged, and learned from."""
