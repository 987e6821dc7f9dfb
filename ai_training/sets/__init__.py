"""Read published image sets and a site's own into one record; one module for each family of sets."""
