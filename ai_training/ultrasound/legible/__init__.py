"""Can burned-in text still be read after cleaning? Counted by two OCR engines."""
