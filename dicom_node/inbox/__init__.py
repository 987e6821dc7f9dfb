"""Received objects: spooled as they came, indexed, assembled to studies (truths 1 to 3)."""
