"""Training data: what goes in, and what must be kept out."""
