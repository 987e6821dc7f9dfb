"""Code that all endpoints share: access, limits of a request, templates."""
