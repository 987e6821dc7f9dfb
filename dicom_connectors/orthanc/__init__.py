"""An Orthanc as a destination of results, by its REST API."""
