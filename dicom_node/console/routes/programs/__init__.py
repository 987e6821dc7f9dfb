"""Endpoints for programs: the REST API, and what those ask that watch the node."""
