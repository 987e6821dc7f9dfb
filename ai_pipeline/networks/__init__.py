"""Networks that several pipelines run: the gate on the features of a picture, and the outline of a head."""
