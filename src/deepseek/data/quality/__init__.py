"""Cleaning training data: readers, operators that score and decide, what became of each text."""
