"""Models that others run, behind the same `LanguageModel` protocol as our engine."""
