"""The head of a fetus in ultrasound: train and measure the network that outlines it."""
