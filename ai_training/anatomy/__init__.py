"""Heart and lungs in frontal chest X-rays: train and measure the network that outlines them."""
