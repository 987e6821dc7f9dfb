"""Find text, drawn marks, bars and lines in a picture, and colour flow, which is not annotation."""
