"""The demonstration: a PACS, a node, modalities that send real images, and the node's results."""
