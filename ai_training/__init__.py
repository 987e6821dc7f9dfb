"""Training and evaluation: needs the extra ``torch``. Nothing here is imported at inference time."""
