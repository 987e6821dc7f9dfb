"""What models make of images, counted by sender and day, and whether it drifts."""
