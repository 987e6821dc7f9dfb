"""Train and measure networks that fill holes in ultrasound pictures."""
