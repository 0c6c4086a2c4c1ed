"""Several answers to one prompt, and the best of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from deepseek.core.errors import RequestError
from deepseek.core.llm import Completion, Prompt, SamplingParams

MAX_SAMPLES = 64
MAX_SEED = 2**63


GenerateMany = Callable[
    [Sequence[Prompt], Sequence[SamplingParams]], Iterable[tuple[int, Completion]]
]
"""`BatchLanguageModel.generate_many`, or the same with an adapter."""


def samples(
    generate_many: GenerateMany,
    prompt: Prompt,
    params: SamplingParams,
    n: int = 1,
    best_of: int | None = None,
) -> list[Completion]:
    """Draw answers to one prompt, which is read once, and keep the likeliest.

    The i-th answer has the seed `params.seed + i`, if there is one: it is what `generate` gives
    with that seed.

    Args:
        generate_many: Draws them side by side.
        prompt: What to answer.
        params: How to sample.
        n: Answers to return: 1 to 64.
        best_of: Answers to draw, `n` to 64; None: `n`.

    Returns:
        With `best_of`, the n answers with the highest mean log-probability of a token, best first;
        else all in the order of their seeds.

    Raises:
        RequestError: A number is out of range, or drawing several makes no sense.
    """
    drawn = n if best_of is None else best_of
    for name, value, least in (("n", n, 1), ("best_of", drawn, n)):
        if type(value) is not int or not least <= value <= MAX_SAMPLES:
            raise RequestError(f"{name} is {value!r}", f"allowed: {least} to {MAX_SAMPLES}")
    if drawn > 1 and params.temperature == 0:
        raise RequestError("greedy answers are all the same", "set a temperature, or n to 1")
    ranked = best_of is not None and best_of > n
    each = [_numbered(params, i, ranked) for i in range(drawn)]
    found = dict(generate_many([prompt] * drawn, each))
    ordered = [found[i] for i in range(drawn)]
    if not ranked:
        return ordered
    best = sorted(ordered, key=mean_logprob, reverse=True)[:n]
    return best if params.logprobs is not None else [replace(one, logprobs=()) for one in best]


def mean_logprob(completion: Completion) -> float:
    """Nats a token; an empty answer is the least likely."""
    values: Sequence[float] = [token.logprob for token in completion.logprobs]
    return sum(values) / len(values) if values else float("-inf")


def _numbered(params: SamplingParams, index: int, with_logprobs: bool) -> SamplingParams:
    seed = None if params.seed is None else (params.seed + index) % MAX_SEED
    logprobs = 0 if with_logprobs and params.logprobs is None else params.logprobs
    return replace(params, seed=seed, logprobs=logprobs)
