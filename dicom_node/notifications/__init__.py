"""Somebody is told of events: gathered from the database, written once, sent until taken."""
