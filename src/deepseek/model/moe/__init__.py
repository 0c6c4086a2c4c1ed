"""Mixtures of experts as feed-forward layers: config, gate, three forms, files, load."""
