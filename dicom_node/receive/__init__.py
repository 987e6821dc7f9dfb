"""The storage SCP: associations, AE policy, contexts, statuses. No database, no pixels, no models."""
