"""Key Object Selection documents: notes that results are withdrawn."""
