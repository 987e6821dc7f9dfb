"""A worker process: claims jobs, runs pipelines on images, builds and stores results."""
