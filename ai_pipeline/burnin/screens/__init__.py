"""What is known of the screen of a device: values of the header, and texts that are always at one place."""
