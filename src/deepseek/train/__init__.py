"""Training: runs from a config to a model, and the router of hierarchical attention."""
