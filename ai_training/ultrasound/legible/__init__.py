"""Can anything of what was burned in be read after cleaning? Counted by two OCR engines."""
