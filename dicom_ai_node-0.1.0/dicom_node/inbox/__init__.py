"""Received objects before they are indexed: the spool, the journal of the listener, the inspection."""
