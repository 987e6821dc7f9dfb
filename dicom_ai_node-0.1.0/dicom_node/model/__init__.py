"""Pure types that every room may use: life cycles, result kinds, identities. No I/O."""
