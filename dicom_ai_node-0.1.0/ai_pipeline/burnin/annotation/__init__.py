"""What burned-in annotation is, which of it a policy removes, and the masks and boxes that hold it."""
