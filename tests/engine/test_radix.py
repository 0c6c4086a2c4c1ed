"""The tree of pages against a plain dictionary, and the reasons it gives."""

import random
from dataclasses import dataclass, field
from itertools import takewhile

import pytest

from deepseek.engine.radix import RadixTree
from deepseek.model.pages import PagedSequence, PagePool
from deepseek.ops.hierarchical import PAGE
from tiny_checkpoint import tiny_config

Tokens = tuple[int, ...]


@dataclass
class Dictionary:
    """Every kept page by all tokens up to its end, with when it was used last."""

    pages: dict[Tokens, int] = field(default_factory=dict)
    used: dict[Tokens, int] = field(default_factory=dict)
    evicted: set[Tokens] = field(default_factory=set)
    clock: int = 0

    def touch(self, tokens: Tokens) -> None:
        self.clock += 1
        for end in range(PAGE, len(tokens) + 1, PAGE):
            self.used[tokens[:end]] = self.clock

    def longest(self, prompt: Tokens) -> Tokens:
        n = len(prompt) // PAGE * PAGE
        while n and prompt[:n] not in self.pages:
            n -= PAGE
        return prompt[:n]

    def common(self, prompt: Tokens, whole: Tokens) -> int:
        """Tokens in common with the best page after those that were found."""
        following = [k for k in self.pages if k[: len(whole)] == whole and len(k) > len(whole)]
        lengths = [next((i for i, (a, b) in enumerate(zip(k, prompt, strict=False)) if a != b),
                        min(len(k), len(prompt))) for k in following]  # fmt: skip
        return max([length - len(whole) for length in lengths], default=0)

    def evict(self, unused: set[Tokens]) -> None:
        leaves = [
            k for k in unused if not any(len(o) > len(k) and o[: len(k)] == k for o in self.pages)
        ]
        # Of those used together, the one farthest from the root.
        gone = min(leaves, key=lambda k: (self.used[k], -len(k)))
        del self.pages[gone]
        self.evicted.add(gone)


def random_prompt(generator: random.Random, known: list[Tokens]) -> Tokens:
    """Of few different tokens, and often beginning like an earlier one."""
    start: Tokens = ()
    if known and generator.random() < 0.8:
        old = generator.choice(known)
        start = old[: generator.randrange(len(old) + 1)]
    return start + tuple(generator.choices(range(3), k=generator.randrange(1, 4 * PAGE)))


@pytest.mark.parametrize("has_memory", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_random_histories(seed: int, has_memory: bool) -> None:
    generator = random.Random(seed)
    pool = PagePool(tiny_config())
    memory = PagePool(tiny_config(), has_values=False) if has_memory else None
    tree, naive = RadixTree(pool, memory), Dictionary()
    known: list[Tokens] = []
    running: list[tuple[Tokens, PagedSequence]] = []
    for _ in range(120):
        match generator.randrange(5):
            case 0 if running:  # one ends
                _, sequence = running.pop(generator.randrange(len(running)))
                sequence.release()
            case 1 if naive.pages:
                held = {t[:end] for t, s in running for end in range(PAGE, s.length + 1, PAGE)}
                unused = set(naive.pages) - held
                assert tree.n_unused == len(unused)
                assert tree.evict() == bool(unused)
                if unused:
                    naive.evict(unused)
            case _:
                prompt = random_prompt(generator, known)
                known.append(prompt)
                whole = naive.longest(prompt)
                common = naive.common(prompt, whole)
                found = tree.match(prompt, len(prompt), in_pages=has_memory)
                naive.touch(whole)
                assert found.length == len(whole) + (0 if has_memory else common)
                assert found.keys[: len(whole) // PAGE] == [
                    naive.pages[prompt[:end]] for end in range(PAGE, len(whole) + 1, PAGE)
                ]
                check_reason(found.miss, prompt, whole, common, naive)
                sequence = PagedSequence(pool, memory)
                sequence.begin(found.length, found.keys, found.memory)
                sequence.extend(len(prompt) - found.length)
                sequence.advance(len(prompt) - found.length)
                tree.insert(prompt, sequence)
                for place, end in enumerate(range(PAGE, len(prompt) + 1, PAGE)):
                    page = sequence.tables[0].pages[place]
                    assert naive.pages.setdefault(prompt[:end], page) == page
                    naive.evicted.discard(prompt[:end])
                naive.touch(prompt[: len(prompt) // PAGE * PAGE])
                running.append((prompt, sequence))
        assert len(tree) == len(naive.pages)
    for _, sequence in running:
        sequence.release()
    assert pool.n_used == len(tree) == tree.n_unused
    tree.clear()
    assert pool.n_used == 0
    assert memory is None or memory.n_used == 0


@pytest.mark.parametrize("seed", range(6))
def test_begun_pages_at_the_end_are_found_as_well(seed: int) -> None:
    """As long as nothing is evicted, as much is found as a prompt has in common with any text."""
    generator = random.Random(seed)
    pool = PagePool(tiny_config())
    tree = RadixTree(pool)
    known: list[Tokens] = []
    running: list[PagedSequence] = []
    for _ in range(60):
        prompt = random_prompt(generator, known)
        found = tree.match(prompt, len(prompt))
        common = [sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1],
                                           zip(prompt, other, strict=False)))
                  for other in known]  # fmt: skip
        assert found.length == max(common, default=0)
        assert len(found.keys) == -(-found.length // PAGE)
        assert (found.miss is None) == (found.length == len(prompt))
        sequence = PagedSequence(pool)
        sequence.begin(found.length, found.keys, found.memory)
        sequence.extend(len(prompt) - found.length)
        sequence.advance(len(prompt) - found.length)
        tree.insert(prompt, sequence, ends=True)
        known.append(prompt)
        running.append(sequence)
        if generator.random() < 0.7:
            running.pop(generator.randrange(len(running))).release()
    for sequence in running:
        sequence.release()
    assert pool.n_used == len(tree) == tree.n_unused
    assert all(len(node.tokens) == PAGE for node in tree.nodes()), "no disk gets a begun page"
    while tree.evict():
        assert pool.n_used == len(tree)
    assert pool.n_used == 0


def test_a_longer_text_takes_the_place_of_a_begun_page() -> None:
    pool = PagePool(tiny_config())
    tree = RadixTree(pool)
    text = list(range(2 * PAGE))
    for length in (10, 30, 20, PAGE + 5, 2 * PAGE):
        kept(pool, tree, text[:length], ends=True)
    assert pool.n_used == len(tree) == 2
    kept(pool, tree, [*text[:9], 500], ends=True)
    assert len(tree) == 3
    found = tree.match([*text[:9], 500, 501], 11)
    assert (found.length, str(found.miss)) == (10, "never seen")
    memory = PagePool(tiny_config(), has_values=False)
    other = RadixTree(pool, memory)
    sequence = PagedSequence(pool, memory)
    sequence.extend(PAGE + 5)
    sequence.advance(PAGE + 5)
    other.insert(text[: PAGE + 5], sequence, ends=True)
    assert len(other) == 1, "memory nodes are those of whole pages"


def check_reason(
    miss: object, prompt: Tokens, whole: Tokens, common: int, naive: Dictionary
) -> None:
    if len(whole) + common == len(prompt):
        assert miss is None
    elif prompt[: len(whole) + PAGE] in naive.evicted:
        assert str(miss) == "evicted"
    elif common or (whole and any(len(k) > len(whole) and k[: len(whole)] == whole
                                  for k in naive.pages)):  # fmt: skip
        assert str(miss) == f"differs at token {len(whole) + common}"
    elif len(prompt) - len(whole) < PAGE:
        assert str(miss) == "shorter than a page"
    else:
        assert str(miss) == "never seen"


def kept(pool: PagePool, tree: RadixTree, tokens: list[int], *, ends: bool = False) -> None:
    sequence = PagedSequence(pool)
    sequence.extend(len(tokens))
    sequence.advance(len(tokens))
    tree.insert(tokens, sequence, ends=ends)
    sequence.release()


def test_a_miss_says_why() -> None:
    pool = PagePool(tiny_config())
    tree = RadixTree(pool)
    text = list(range(3 * PAGE))
    assert str(tree.match(text, len(text)).miss) == "never seen"
    assert str(tree.match([5, 6], 2).miss) == "shorter than a page"
    assert str(tree.match([5, 6], 0).miss) == "shorter than a page"
    kept(pool, tree, text)
    assert tree.match(text, len(text)).miss is None
    other = [*text[: PAGE + 9], *[7] * 2 * PAGE]
    found = tree.match(other, len(other))
    assert (str(found.miss), found.length) == (f"differs at token {PAGE + 9}", PAGE + 9)
    in_pages = tree.match(other, len(other), in_pages=True)
    assert (in_pages.length, len(in_pages.keys)) == (PAGE, 1)
    assert tree.evict()
    found = tree.match(text, len(text))
    assert (str(found.miss), found.length) == ("evicted", 2 * PAGE)


def test_the_least_recently_used_leaf_goes_first_and_the_budget_holds() -> None:
    pool = PagePool(tiny_config())
    tree = RadixTree(pool, most=4)
    beginning = [1] * PAGE
    for last in (2, 3, 4):
        kept(pool, tree, [*beginning, *[last] * PAGE])
    assert len(tree) == 4
    tree.match([*beginning, *[2] * PAGE], 2 * PAGE)
    kept(pool, tree, [*beginning, *[5] * PAGE])
    assert len(tree) == pool.n_used == 4
    lengths = [tree.match([*beginning, *[n] * PAGE], 2 * PAGE).length for n in (2, 3, 4, 5)]
    assert lengths == [2 * PAGE, PAGE, 2 * PAGE, 2 * PAGE]


def test_equal_pages_are_kept_once() -> None:
    """Two that were read side by side: the later one takes over the pages of the first."""
    pool = PagePool(tiny_config())
    tree = RadixTree(pool)
    tokens = list(range(2 * PAGE))
    one, other = PagedSequence(pool), PagedSequence(pool)
    for sequence in (one, other):
        sequence.extend(len(tokens))
        sequence.advance(len(tokens))
    assert pool.n_used == 4
    tree.insert(tokens, one)
    tree.insert(tokens, other)
    assert pool.n_used == 2
    one.release()
    other.release()
    tree.clear()
    assert pool.n_used == 0


@pytest.mark.parametrize("has_memory", [False, True])
def test_each_adapter_has_pages_of_its_own(has_memory: bool) -> None:
    generator = random.Random(4)
    pool = PagePool(tiny_config())
    memory = PagePool(tiny_config(), has_values=False) if has_memory else None
    tree = RadixTree(pool, memory)
    prompts = [tuple(generator.choices(range(3), k=5 * PAGE)) for _ in range(3)]
    prompts += [prompt[: 2 * PAGE] + prompts[0][: 3 * PAGE] for prompt in prompts]
    kept: dict[int, set[int]] = {}
    for adapter in (-1, 0, 7):
        for prompt in prompts:
            assert adapter in kept or not tree.match(prompt, len(prompt), adapter=adapter).length
            sequence = PagedSequence(pool, memory)
            sequence.adapter = adapter
            sequence.extend(len(prompt))
            sequence.advance(len(prompt))
            tree.insert(prompt, sequence)
            found = tree.match(prompt, len(prompt), adapter=adapter)
            assert found.length == len(prompt)
            kept.setdefault(adapter, set()).update(found.keys)
            sequence.release()
    assert sum(map(len, kept.values())) == len(set().union(*kept.values())) == pool.n_used
    tree.forget(0)
    assert pool.n_used == len(tree) == len(kept[-1]) + len(kept[7])
    assert tree.match(prompts[0], 5 * PAGE, adapter=0).length == 0
    for adapter in (-1, 7):
        for prompt in prompts:
            assert tree.match(prompt, len(prompt), adapter=adapter).length == len(prompt)
    tree.forget(99)
    while tree.evict():
        pass
    assert pool.n_used == 0
    assert memory is None or memory.n_used == 0
