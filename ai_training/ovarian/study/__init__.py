"""What cleaning does to the classifier: tested on cleaned frames, and trained on them."""
