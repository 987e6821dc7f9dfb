"""Secondary captures: images with the results drawn in, and cleaned images."""
