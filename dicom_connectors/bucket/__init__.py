"""Files of a site in a bucket of any S3 service, by obstore."""
