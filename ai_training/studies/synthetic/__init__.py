"""Synthetic chest X-rays for a rare label: made by DCGAN and PGGAN, judged, and used for training."""
