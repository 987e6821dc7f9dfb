"""Work items of worklist managers (UPS, PS3.4 CC): claimed, done by the node, reported."""
