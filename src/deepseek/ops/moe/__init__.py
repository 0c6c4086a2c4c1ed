"""Mixtures of experts as pure functions: choosing, computing, balancing, measuring."""
