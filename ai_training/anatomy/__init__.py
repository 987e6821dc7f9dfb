"""Heart and lungs in frontal chest X-rays: training and measuring the network that outlines them."""
