"""The public image sets, the NIH download and a site's own manifest, read as one table."""
