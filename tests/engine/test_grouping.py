"""Requests are grouped where a long common beginning is worth it."""

import random

import pytest

from deepseek.engine.grouping import MIN_SHARED, Group, common_length, group_by_beginning


def numbered(start: int, n: int) -> list[int]:
    return list(range(start, start + n))


def test_subjects_become_groups() -> None:
    a, b = numbered(0, 100), numbered(1_000, 200)
    prompts = [[*a, 1, 2], [*a, 3], [*a, 4, 5, 6], [*b, 1], [*b, 2, 2]]
    assert list(group_by_beginning(prompts)) == [Group(0, 3, 100), Group(3, 5, 200)]


def test_one_that_shares_nothing_stands_alone_with_others_like_it() -> None:
    prompts = [[1, 2, 3], [4, 5], [6]]
    assert list(group_by_beginning(prompts)) == [Group(0, 3, 0)]
    a = numbered(0, 100)
    assert list(group_by_beginning([[7, 8], [*a, 1], [*a, 2]])) == [
        Group(0, 1, 0),
        Group(1, 3, 100),
    ]


def test_each_prompt_keeps_a_token_of_its_own() -> None:
    a = numbered(0, 40)
    assert list(group_by_beginning([a, [*a, 5], a])) == [Group(0, 3, 39)]
    assert list(group_by_beginning([a])) == [Group(0, 1, 0)]
    assert list(group_by_beginning([])) == []


@pytest.mark.parametrize("seed", range(50))
def test_groups_cover_all_and_share_what_they_say(seed: int) -> None:
    generator = random.Random(seed)
    beginnings = [[generator.randrange(3) for _ in range(generator.randrange(60))] for _ in "abc"]
    prompts = [
        generator.choice(beginnings) + [generator.randrange(3) for _ in range(1 + i % 9)]
        for i in range(generator.randint(1, 12))
    ]
    groups = list(group_by_beginning(prompts))
    assert [i for g in groups for i in range(g.start, g.stop)] == list(range(len(prompts)))
    for group in groups:
        assert group.n_shared == 0 or group.n_shared >= MIN_SHARED
        for i in range(group.start, group.stop):
            assert common_length(prompts[group.start], prompts[i]) >= group.n_shared
            assert len(prompts[i]) > group.n_shared
