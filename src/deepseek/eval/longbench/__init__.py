"""LongBench: its datasets, prompts, metrics and files (Bai et al., arXiv:2308.14508)."""
