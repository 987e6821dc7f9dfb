"""DICOM values for the node: text, identity, UIDs, SOP classes. No input or output except of headers."""
