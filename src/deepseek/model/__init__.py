"""The one decoder model, its configuration, its cache and its checkpoints."""
