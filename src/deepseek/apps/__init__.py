"""Applications on top of any `LanguageModel`: documents, papers."""
