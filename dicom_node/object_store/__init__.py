"""Where files of received objects and results are: the one door to them."""
