"""Secondary captures: results drawn in, and cleaned images."""
