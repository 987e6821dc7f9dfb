"""Train the chest X-ray classifier: experiments, runs, the gate, and export."""
