"""What can happen to a study: indexed, assembled, quarantined, released by a person, run again, purged."""
