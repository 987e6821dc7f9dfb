"""What pages and the REST API show, read from the database and the files of results."""
