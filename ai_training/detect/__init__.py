"""Where a chest finding lies: boxes, who may draw them, and what they are worth against knowing nothing."""
