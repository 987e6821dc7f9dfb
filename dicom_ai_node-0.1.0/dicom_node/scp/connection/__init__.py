"""The connection of one association: who reads it, within which time."""
