"""Types that every package may use: life cycles, result kinds, identities. No input or output."""
