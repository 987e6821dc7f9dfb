"""The configuration: settings with their defaults and limits, TOML files, and what can be wrong with them."""
