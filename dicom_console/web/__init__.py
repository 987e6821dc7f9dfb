"""What all endpoints share: who asks, limits of a request, templates."""
