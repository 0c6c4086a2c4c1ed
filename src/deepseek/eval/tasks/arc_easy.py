"""ARC-Easy: science questions that simple retrieval can answer."""

from deepseek.eval.tasks.arc import part_task

TASK = part_task("arc_easy", "science questions of school exams, the easy ones")
