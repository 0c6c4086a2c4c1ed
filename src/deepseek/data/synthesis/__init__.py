"""Synthetic data: fresh problems that the previous model gets wrong, with verified answers."""
