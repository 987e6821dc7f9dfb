"""Train and measure the detector of burned-in annotation."""
