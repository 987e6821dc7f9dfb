"""DICOMweb (PS3.18): a server as a destination of results, and as an archive that is queried."""
