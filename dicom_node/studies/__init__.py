"""The steps of a study: indexed, assembled, quarantined, released by a person, run again, purged."""
