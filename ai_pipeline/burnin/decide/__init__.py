"""What is written in a picture and what of it goes, by policy; the shape in which it goes."""
