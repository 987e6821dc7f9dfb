"""How well the stamps of chest films are read."""
