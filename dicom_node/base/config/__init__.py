"""The configuration: settings with their defaults and limits, TOML files, and mistakes in them."""
