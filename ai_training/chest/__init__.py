"""Train the chest X-ray classifier: experiments, runs, levers, and what ships."""
