"""How experts are shared out; what ranks then say is tested with ranks (tests/train)."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from deepseek.ops.moe.exchange import shared_out


@given(st.lists(st.integers(1, 50), min_size=1, max_size=24), st.data())
def test_every_rank_has_a_run_of_experts_and_none_has_much_more(
    sizes: list[int], data: st.DataObject
) -> None:
    n_ranks = data.draw(st.integers(1, len(sizes)))
    bounds = shared_out(sizes, n_ranks)
    assert bounds[0] == 0
    assert bounds[-1] == len(sizes)
    assert len(bounds) == n_ranks + 1
    assert all(a < b for a, b in pairwise(bounds))
    if len(set(sizes)) == 1 and len(sizes) % n_ranks == 0:
        assert {b - a for a, b in pairwise(bounds)} == {len(sizes) // n_ranks}


def test_large_experts_stand_alone() -> None:
    assert shared_out((40, 8, 8, 8, 40), 3) == (0, 1, 4, 5)
