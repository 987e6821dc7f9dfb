"""Verbs that list and change what a node keeps: studies, jobs, deliveries, events, models."""
