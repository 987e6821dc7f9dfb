"""Connectors: what the node speaks besides DICOM, a folder each, which it finds by their entry points."""

import dicom_node.base.config.settings  # noqa: F401  (it loads the settings of the connectors, which need it)
