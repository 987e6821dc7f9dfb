"""Outcomes and scores of models, counted by sender and day, and their drift from the card's reference."""
