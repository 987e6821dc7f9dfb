"""What is seen in a picture: text, drawn marks, bars, lines, and colour flow, which is no annotation."""
