"""RULER: long-context tasks that are generated (Hsieh et al., arXiv:2404.06654)."""
