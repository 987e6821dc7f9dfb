"""From received objects to complete studies: indexed, assembled, quarantined, released, run again."""
