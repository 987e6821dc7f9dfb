"""From a file to samples and grey levels as displayed, and results drawn into them."""
