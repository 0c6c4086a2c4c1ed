"""Training: so far the router of hierarchical attention."""
