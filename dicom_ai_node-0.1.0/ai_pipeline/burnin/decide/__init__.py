"""What is written in a picture and what it is for; places that are known to hold text; masks' shapes."""
