"""Train and measure networks that find burned-in annotation and fill the picture beneath it."""
