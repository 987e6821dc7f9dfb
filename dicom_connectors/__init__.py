"""Connectors: protocols that the node speaks besides DICOM, each in a folder, found by entry points."""

import dicom_node.base.config.settings  # noqa: F401  (it loads the settings of the connectors, which need it)
