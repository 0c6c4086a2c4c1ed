"""Flaws in a paper that code can find: what is missing, what does not add up, what is too much."""

from deepseek.apps.papers.flaws.find import find_flaws
from deepseek.apps.papers.flaws.flaw import DETECTORS, Flaw, detector

__all__ = ["DETECTORS", "Flaw", "detector", "find_flaws"]
