"""What a model is and how it runs: cards, preprocessing, engine, the reference of its scores, the store."""
