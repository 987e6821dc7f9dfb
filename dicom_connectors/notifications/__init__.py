"""Notifications of events: collected from the database, stored once, sent until the receiver accepts them."""
