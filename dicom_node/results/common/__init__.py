"""Code that all kinds of results share: source, identity, equipment, times, codes, encoding."""
