"""Word problems of several steps, made of sentences of our own, with their solutions worked out.

A level is the number of steps beyond two. No sentence is taken from a benchmark.
"""

import itertools
import random
from collections.abc import Callable
from fractions import Fraction

from deepseek.data.verifiers.problem import Problem
from deepseek.data.verifiers.verifier import NumberVerifier

N_LEVELS = 5
NAMES = "Ada Bela Chidi Dana Emre Farah Goran Hana Ines Jonas Kwame Lena Mateo Nour Ola".split()
THINGS = "marbles stamps tickets pears pencils shells coins postcards buttons seeds".split()
SHARES = (("half", 2), ("a third", 3), ("a quarter", 4), ("a fifth", 5))
Step = tuple[str, str, int]
"""A sentence, what it means in figures, and how many there are afterwards."""


def story(rng: random.Random, level: int) -> tuple[str, str, str]:
    """One person's things, which become more and fewer."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    count = rng.randint(6, 30 + 30 * level)
    sentences, worked = [f"{name} has {count} {thing}."], []
    for _ in range(level + 2):
        said, figures, count = _event(rng, name, thing, count)
        sentences.append(said)
        worked.append(figures)
    question = f"How many {thing} does {name} have now?"
    return " ".join([*sentences, question]), "\n".join(worked), str(count)


def purchase(rng: random.Random, level: int) -> tuple[str, str, str]:
    """A basket of several goods, paid with one note."""
    name = rng.choice(NAMES)
    kinds = rng.sample(THINGS, level + 2)
    bought = [(rng.randint(2, 9 + level), rng.randint(2, 12 + 3 * level), kind) for kind in kinds]
    total = sum(number * price for number, price, _ in bought)
    paid = total + rng.randint(1, 50)
    listed = ", ".join(f"{number} {kind} at {price} euros each" for number, price, kind in bought)
    worked = [f"{number} * {price} = {number * price}" for number, price, _ in bought]
    costs = " + ".join(str(number * price) for number, price, _ in bought)
    worked += [f"{costs} = {total}", f"{paid} - {total} = {paid - total}"]
    asked = f"{name} buys {listed}, and pays with {paid} euros. How many euros come back?"
    return asked, "\n".join(worked), str(paid - total)


def journey(rng: random.Random, level: int) -> tuple[str, str, str]:
    """Stretches at several speeds; asked for the mean speed of them all."""
    name = rng.choice(NAMES)
    stretches = [(rng.randint(2, 12) * 5, rng.randint(1, 3 + level)) for _ in range(level + 2)]
    times = [f"{hours} hour{'s' if hours > 1 else ''}" for _, hours in stretches]
    pairs = zip(times, stretches, strict=True)
    listed = ", then ".join(f"{time} at {speed} km/h" for time, (speed, _) in pairs)
    distance = sum(speed * hours for speed, hours in stretches)
    hours = sum(hours for _, hours in stretches)
    worked = [f"{speed} * {time} = {speed * time}" for speed, time in stretches]
    worked += [f"{' + '.join(str(s * t) for s, t in stretches)} = {distance} km in all"]
    mean = Fraction(distance, hours)
    worked += [f"{distance} / {hours} = {mean} km/h"]
    asked = (
        f"{name} drives {listed}. What is the mean speed of the whole journey in km/h? "
        "Give a whole number or a fraction in lowest terms."
    )
    return asked, "\n".join(worked), str(mean)


def ages(rng: random.Random, level: int) -> tuple[str, str, str]:
    """A chain of people of whom each is told by the one before."""
    people = rng.sample(NAMES, level + 3)
    age = rng.randint(5, 15)
    sentences, worked = [f"{people[0]} is {age} years old."], []
    for before, person in itertools.pairwise(people):
        kind, number = rng.choice(("older", "younger", "times")), rng.randint(2, 4)
        if kind == "times" and age < 40:
            said, figures, age = f"{number} times as old as", f"{age} * {number}", age * number
        elif kind == "younger" and age > number:
            said, figures, age = f"{number} years younger than", f"{age} - {number}", age - number
        else:
            said, figures, age = f"{number} years older than", f"{age} + {number}", age + number
        sentences.append(f"{person} is {said} {before}.")
        worked.append(f"{person}: {figures} = {age}")
    return " ".join([*sentences, f"How old is {people[-1]}?"]), "\n".join(worked), str(age)


def _event(rng: random.Random, name: str, thing: str, count: int) -> Step:
    """Something that happens to `count` things."""
    fitting = [share for share in SHARES if count and count % share[1] == 0]
    kind = rng.choice(("find", "lose", "bags", "share" if fitting else "bags", "double"))
    number, size = rng.randint(2, 9), rng.randint(3, 12)
    if kind == "lose" and count > number:
        after = count - number
        return f"{name} loses {number} of them.", f"{count} - {number} = {after}", after
    if kind == "share":
        words, parts = rng.choice(fitting)
        after = count - count // parts
        said = f"{name} gives {words} of them away."
        return (
            said,
            f"{count} / {parts} = {count // parts}, {count} - {count // parts} = {after}",
            after,
        )
    if kind == "double" and count < 200:
        return f"A friend doubles what {name} has.", f"{count} * 2 = {2 * count}", 2 * count
    if kind == "find":
        after = count + number
        return f"{name} finds {number} more.", f"{count} + {number} = {after}", after
    after = count + number * size
    said = f"{name} buys {number} bags with {size} {thing} in each."
    return said, f"{number} * {size} = {number * size}, {count} + {number * size} = {after}", after


WORDS: dict[str, Callable[[random.Random, int], tuple[str, str, str]]] = {
    "ages": ages,
    "journey": journey,
    "purchase": purchase,
    "story": story,
}


def word_problem(name: str, level: int, seed: int, index: int) -> Problem:
    """One problem; always the same for the same arguments."""
    # A text as the seed: the numbers that follow are the same in every process and version.
    rng = random.Random(f"words {name} {level} {seed} {index}")
    question, solution, answer = WORDS[name](rng, level)
    return Problem(
        question=question,
        answer=answer,
        solution=solution,
        verifier=NumberVerifier.name,
        generator="words 1",
        family=f"words/{name}",
        level=level,
        seed=seed,
        index=index,
    )
