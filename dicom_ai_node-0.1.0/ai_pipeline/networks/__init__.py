"""Network architectures, in torch; needed for training and for the torch backend only."""
