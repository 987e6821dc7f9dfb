"""Forms: what was typed, as content of the configuration, and what is wrong with it."""
