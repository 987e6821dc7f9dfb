"""``ai-pipeline serve``: an HTTP service that cleans images of burned-in annotation, without the node.

The server's process receives bytes and never looks into them. Processes of :mod:`.worker`, which have no
network, read and clean them. Nothing is kept: what was received and what was cleaned lie in files without a
name, which end with their request, also when a process is killed.
"""
