"""What is kept of burned-in annotation: readings, and reviews of its cleaning."""
