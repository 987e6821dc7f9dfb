"""The database: tables, sessions, compare-and-set transitions. No business rules."""
