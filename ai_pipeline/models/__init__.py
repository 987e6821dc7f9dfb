"""Models: cards, preprocessing, inference engine, reference distribution of scores, and the store."""
