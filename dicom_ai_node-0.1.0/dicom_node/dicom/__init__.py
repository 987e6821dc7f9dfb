"""DICOM values as this node needs them: text, identity, UIDs, SOP classes. No I/O but headers."""
