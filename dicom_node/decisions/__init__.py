"""Persons' decisions, kept outside the database too: in a file that is only appended to, and in the
bucket.
"""
