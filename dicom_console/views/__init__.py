"""The content of pages and of the REST API, read from the database and the files of results."""
