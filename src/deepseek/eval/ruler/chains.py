"""Variable tracking: RULER's `vt`, a chain of assignments hidden in noise, after one example."""

from collections.abc import Callable
from random import Random
from string import ascii_uppercase

from deepseek.core.errors import RequestError
from deepseek.eval.lengths import largest_fit
from deepseek.eval.ruler.filled import Filled, Recipe
from deepseek.eval.ruler.needles import NOISE

TEMPLATE = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
    "{context}\nQuestion: Find all variables that are assigned the value {value} in the text above."
    " Answer: According to the chain(s) of variable assignment in the text above, {n_variables}"
    " variables are assigned the value {value}, they are: "
)
HOPS = 4
EXAMPLE_TOKENS = 500
"""Of the solved example, at most; it is shorter where the whole prompt is."""
LEAST = HOPS + 1


def chain_recipe(length: int, count: Callable[[str], int]) -> Recipe:
    """Variable tracking at one length.

    Args:
        length: Tokens of prompt and answer.
        count: Tokens of a text.
    """
    room = min(EXAMPLE_TOKENS, length // 4)
    try:
        n_noise = largest_fit(lambda n: count(_example(Random(0), n)), room, LEAST)
    except RequestError:
        n_noise = LEAST

    def build(generator: Random, n_pieces: int) -> Filled:
        example = _example(generator, n_noise)
        task = _task(generator, n_pieces, letters=5)
        return Filled(f"{example}\n\n{task.text}", task.outputs)

    return Recipe(build=build, least=LEAST, max_tokens=30)


def _example(generator: Random, n_noise: int) -> str:
    """A solved task; its names are shorter, so that none of them is in the question."""
    task = _task(generator, n_noise, letters=3)
    return f"{task.text} {' '.join(task.outputs)}"


def _task(generator: Random, n_noise: int, letters: int) -> Filled:
    names: list[str] = []
    while len(names) <= HOPS:
        name = "".join(generator.choices(ascii_uppercase, k=letters))
        if name not in names:
            names.append(name)
    value = str(generator.randrange(10_000, 99_999))
    # The space after the name is RULER's; it stays at the end of the line.
    later = (f"VAR {names[i + 1]} = VAR {names[i]} " for i in range(HOPS))
    lines = [NOISE] * n_noise
    places = sorted(generator.sample(range(n_noise), HOPS + 1))
    for i, line in enumerate([f"VAR {names[0]} = {value}", *later]):
        lines.insert(places[i] + i, line)
    text = TEMPLATE.format(context="\n".join(lines), value=value, n_variables=len(names))
    return Filled(text, names)
