"""A vendor's AI server as a DICOM peer: studies go to it, its answers go through the gate."""
