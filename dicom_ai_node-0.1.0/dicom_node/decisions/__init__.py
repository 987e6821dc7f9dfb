"""Decisions of persons, beside the database: a file that is only appended to, and the bucket."""
