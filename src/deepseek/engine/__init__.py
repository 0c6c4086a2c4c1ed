"""Runs a model: sampling, streaming, scoring, prefix reuse."""
