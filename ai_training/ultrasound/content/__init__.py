"""What cleaning removes that a doctor needs, what identity it leaves, and what it makes up."""
