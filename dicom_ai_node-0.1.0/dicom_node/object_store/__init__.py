"""Where files of received objects and results are: this machine's disk, or an S3 bucket behind it."""
