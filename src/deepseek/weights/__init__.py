"""Named checkpoints, their download and cache, and readers that trust no file."""
