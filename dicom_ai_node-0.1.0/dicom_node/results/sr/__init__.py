"""The report: Comprehensive 3D SR by TID 1500."""
