"""Outcomes and scores of models, counted by sender and day, and their drift against the card's reference."""
