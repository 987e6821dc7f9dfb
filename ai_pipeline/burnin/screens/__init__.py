"""Learn what a device writes on its screen: count it, offer it to a person, write it as a device rule."""
