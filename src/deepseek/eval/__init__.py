"""Evaluation: public benchmarks with their own protocols, run on any `LanguageModel`."""
