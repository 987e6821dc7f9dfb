"""What cleaning takes of what a doctor needs, what it leaves of identity, and what it makes up."""
