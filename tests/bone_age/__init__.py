"""A pipeline of another package, as a site would install it, and what becomes of all that its card says."""
