"""Train and measure what finds burned-in annotation and fills the picture beneath it."""
