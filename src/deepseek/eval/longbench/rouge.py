"""ROUGE-L as LongBench's scorer gives it: that of the package `rouge` 1.0.1, at summary level.

Own code, because the package recurses once per word of a sentence and Python ends that at its
limit; LongBench scores such an answer 0. Called from deeper inside a program, the package would
give other answers 0 than the official script does. Here the walk is a loop and the limit a number.
"""

STEPS = 990
"""Words that the recursion can pass within Python's 1,000 frames, called as the script calls it."""


def rouge_l(prediction: str, truth: str, steps: int = STEPS) -> float:
    """F-measure of the longest common subsequences of sentences, over distinct words.

    Args:
        prediction: What the model wrote, words divided by white space.
        truth: What it should have written.
        steps: A pair of sentences whose comparison takes more makes the score 0.
    """
    ours, theirs = _sentences(prediction), _sentences(truth)
    if not ours or not theirs:
        return 0.0
    found: set[str] = set()
    for reference in theirs:
        for sentence in ours:
            common = _common_words(reference, sentence, steps)
            if common is None:
                return 0.0
            found |= common
    recall = len(found) / len({word for sentence in theirs for word in sentence})
    precision = len(found) / len({word for sentence in ours for word in sentence})
    return 2.0 * ((precision * recall) / (precision + recall + 1e-8))


def _sentences(text: str) -> list[list[str]]:
    """Full stops end sentences; one of white space only holds the empty word, as in the package."""
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _common_words(x: list[str], y: list[str], steps: int) -> set[str] | None:
    """The words of the longest common subsequence that the package finds, None if it gives up."""
    table = [[0] * (len(y) + 1)]
    for word in x:
        above, row, left = table[-1], [0], 0
        for j, other in enumerate(y):
            left = above[j] + 1 if word == other else max(above[j + 1], left)
            row.append(left)
        table.append(row)
    words: set[str] = set()
    i, j = len(x), len(y)
    taken = 0
    while i and j:
        taken += 1
        if x[i - 1] == y[j - 1]:
            words.add(x[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return None if taken > steps else words
