"""The connection of one association: reading of PDUs, deadlines and limits."""
