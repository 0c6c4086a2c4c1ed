"""Variable tracking: a chain in order, after one solved example."""

from random import Random

from deepseek.eval.ruler.chains import chain_recipe
from deepseek.eval.ruler.needles import NOISE


def words(text: str) -> int:
    return len(text.split())


def test_in_full() -> None:
    filled = chain_recipe(400, words).build(Random("s"), 6)
    assert filled.text == (
        "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
        f"VAR MST = 55265\n{NOISE}\nVAR RDJ = VAR MST \n{NOISE}\nVAR REK = VAR RDJ \n{NOISE}\n"
        f"VAR FRK = VAR REK \n{NOISE}\nVAR XLL = VAR FRK \n{NOISE}\n"
        "Question: Find all variables that are assigned the value 55265 in the text above. Answer:"
        " According to the chain(s) of variable assignment in the text above, 5 variables are"
        " assigned the value 55265, they are:  MST RDJ REK FRK XLL\n\n"
        "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
        f"VAR ZINQN = 26551\n{NOISE}\nVAR MGSKZ = VAR ZINQN \n{NOISE}\nVAR FZAAP = VAR MGSKZ \n"
        f"{NOISE}\nVAR KFLOW = VAR FZAAP \n{NOISE}\nVAR RDLPR = VAR KFLOW \n{NOISE}\n{NOISE}\n"
        "Question: Find all variables that are assigned the value 26551 in the text above. Answer:"
        " According to the chain(s) of variable assignment in the text above, 5 variables are"
        " assigned the value 26551, they are: "
    )
    assert filled.outputs == ["ZINQN", "MGSKZ", "FZAAP", "KFLOW", "RDLPR"]


def test_the_example_has_at_most_500_tokens() -> None:
    for length, most in ((4_096, 500), (1_200, 300)):
        recipe = chain_recipe(length, words)
        for seed in range(5):
            example = recipe.build(Random(seed), 30).text.split("\n\nMemorize")[0]
            assert most - 25 < words(example) <= most
    assert (recipe.least, recipe.max_tokens, recipe.match) == (5, 30, "all")


def test_the_chain_can_be_followed() -> None:
    recipe = chain_recipe(4_096, words)
    for seed in range(30):
        filled = recipe.build(Random(seed), 60)
        task = filled.text.split("\n\nMemorize")[1]
        value = task.partition("assigned the value ")[2][:5]
        known = []
        for line in task.split("\n"):
            if line.startswith("VAR "):
                name, given = line.strip().removeprefix("VAR ").split(" = ")
                assert given == value or given.removeprefix("VAR ") in known
                known.append(name)
        assert known == filled.outputs
        assert len(set(known)) == 5
        assert not any(name in filled.text.split("\n\nMemorize")[0] for name in known)
