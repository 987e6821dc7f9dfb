"""A database that is away or damaged: what its errors mean, and who is told."""
