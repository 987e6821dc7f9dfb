"""The location of files of received objects and results: this machine's disk, or an S3 bucket behind it."""
