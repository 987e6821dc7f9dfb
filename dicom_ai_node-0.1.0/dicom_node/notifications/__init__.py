"""Notifications of events: gathered from the database, written once, sent until the receiver takes them."""
