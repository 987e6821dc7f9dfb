"""The reader of small letters: training lines, training, evaluation."""
