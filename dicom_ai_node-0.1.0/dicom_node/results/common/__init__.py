"""What every kind of result shares: source, identity, equipment, times, codes, encoding."""
