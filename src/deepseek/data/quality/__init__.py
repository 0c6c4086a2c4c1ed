"""Cleaning training data: readers, operators that score and decide, and what became of each text."""
