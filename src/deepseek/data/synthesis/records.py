"""Hard cases as lines that training reads: conversations, preference pairs, held-out problems."""

from typing import Any, Literal

from deepseek.data.entropy.attempts import Attempt, Judged
from deepseek.data.synthesis.selection import Kind
from deepseek.data.verifiers.problem import Problem

Target = Literal["model", "reference"]
"""Whose answer is to be learned: a verified one of the model's own, or the generator's."""


def hard_record(
    kind: Kind, attempt: Attempt, problem: Problem, about: dict[str, Any], *, worked: bool
) -> dict[str, Any]:
    """One line for fine-tuning: `messages` for conversations, the same as `text`."""
    target, answer = right_answer(attempt, problem, worked=worked)
    return {
        "text": f"{attempt.prompt}\n{answer}",
        "messages": [_turn("user", attempt.prompt), _turn("assistant", answer)],
        "kind": kind,
        "difficulty": round(1 - attempt.pass_rate, 6),
        "target": target,
        "provenance": provenance(attempt, problem, about),
    }


def preference_pair(
    kind: Kind, attempt: Attempt, problem: Problem, about: dict[str, Any], *, worked: bool
) -> dict[str, Any] | None:
    """A right answer against the wrong one that the model gives most; None: it gives none.

    The keys are those of preference data in TRL's conversational form.
    """
    wrong = usual_mistake(attempt)
    if wrong is None:
        return None
    target, answer = right_answer(attempt, problem, worked=worked)
    return {
        "prompt": [_turn("user", attempt.prompt)],
        "chosen": [_turn("assistant", answer)],
        "rejected": [_turn("assistant", wrong.text)],
        "kind": kind,
        "difficulty": round(1 - attempt.pass_rate, 6),
        "target": target,
        "provenance": provenance(attempt, problem, about),
    }


def held_out_record(
    kind: Kind, attempt: Attempt, problem: Problem, about: dict[str, Any]
) -> dict[str, Any]:
    """A problem to measure by. It has neither `text` nor `messages`: training refuses it."""
    return {
        "question": attempt.prompt,
        "answer": problem.answer,
        "verifier": problem.verifier,
        "details": dict(problem.details),
        "kind": kind,
        "difficulty": round(1 - attempt.pass_rate, 6),
        "provenance": provenance(attempt, problem, about),
    }


def provenance(attempt: Attempt, problem: Problem, about: dict[str, Any]) -> dict[str, Any]:
    """Where a record comes from: enough to make it again. No date: the same run, the same bytes."""
    verdicts = [sample.is_right for sample in attempt.samples]
    return {
        "id": problem.id,
        "generator": problem.generator,
        "family": problem.family,
        "level": problem.level,
        "seed": problem.seed,
        "index": problem.index,
        "verifier": problem.verifier,
        "model": about["model"],
        "sampling": about["config"]["sampling"],
        "first_seed": attempt.samples[0].seed,
        "greedy_is_right": attempt.greedy.is_right,
        "verdicts": verdicts,
        "signals": attempt.signals,
    }


def right_answer(attempt: Attempt, problem: Problem, *, worked: bool) -> tuple[Target, str]:
    """The model's likeliest right answer, the greedy one before all; else the reference."""
    if attempt.greedy.is_right:
        return "model", attempt.greedy.text
    right = [sample for sample in attempt.samples if sample.is_right]
    if right:
        return "model", max(right, key=_likelihood).text
    return "reference", reference_of(problem, worked=worked)


def reference_of(problem: Problem, *, worked: bool) -> str:
    """The generator's answer in the form that is asked for."""
    if problem.verifier == "program":
        return problem.answer
    stated = f"Answer: {problem.answer}"
    return f"{problem.solution}\n{stated}" if worked and problem.solution else stated


def usual_mistake(attempt: Attempt) -> Judged | None:
    """Of the wrong meaning that is drawn most, the likeliest answer; else a wrong greedy one."""
    wrong = [sample for sample in attempt.samples if not sample.is_right and sample.text.strip()]
    if not wrong:
        greedy = attempt.greedy
        return greedy if not greedy.is_right and greedy.text.strip() else None
    sizes = {s.cluster: sum(o.cluster == s.cluster for o in wrong) for s in wrong}
    return max(wrong, key=lambda sample: (sizes[sample.cluster], *_likelihood(sample)))


def _likelihood(answer: Judged) -> tuple[float, int]:
    """For comparing: likelier by token first, then shorter."""
    mean = None if answer.logprob is None else answer.logprob / max(1, answer.n_tokens)
    return (float("-inf") if mean is None else mean), -answer.n_tokens


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
