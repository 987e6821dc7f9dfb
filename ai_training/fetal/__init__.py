"""The head of a fetus in ultrasound: training and measuring the network that outlines it."""
