"""Errors, threads, device choice, logging and the `LanguageModel` protocol."""
