"""Pure tensor functions. Each fast path has a slow reference beside it."""
