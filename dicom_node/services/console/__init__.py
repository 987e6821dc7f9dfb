"""What the pages of the console show and do."""
