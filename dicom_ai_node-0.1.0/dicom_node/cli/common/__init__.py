"""What verbs share: the options that they take, and the one way in which they print."""
