"""Train the chest X-ray classifier: experiments, runs, comparisons of single settings, and export."""
