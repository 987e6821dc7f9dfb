"""What is known of a device before a pixel is looked at: rules by maker and model, and the header's texts."""
