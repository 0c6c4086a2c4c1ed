"""ARC-Challenge: science questions that simple retrieval gets wrong."""

from deepseek.eval.tasks.arc import part_task

TASK = part_task("arc_challenge", "science questions of school exams, the hard ones")
