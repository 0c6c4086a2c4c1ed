"""Changes trained models: dense ones into mixtures, experts in and out, parts kept apart."""
