"""The benchmarks time what they say: streams continue as alone, windows and charts are right."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from accuracy import compare, nats_of
from chart import ratio_chart
from deepseek.ops import native
from engines import LlamaCpp, Ours
from held_out import windows
from invariance import Bench, Job, rows_of
from kernels import with_kept
from peers import Jobs
from report import Row, read_rows

PROMPTS = [
    "A list of rivers in Europe: the Danube, the",
    "def fibonacci(n):\n    if n < 2:\n        return",
    "The first law of thermodynamics says that the energy of",
]
LENGTH, NEW = 8, 6


def greedy(peer: Ours | LlamaCpp, ids: list[int]) -> list[int]:
    found = [peer.prefill(ids)]
    while len(found) < NEW:
        found.append(peer.step(found[-1]))
    return found


def side_by_side(peer: Ours | LlamaCpp, prompts: list[list[int]]) -> list[list[int]]:
    streams = peer.streams(prompts, NEW, unified=True)
    for _ in range(2):  # the second time after rewinding
        steps = [streams.first]
        streams.rewind()
        while len(steps) < NEW:
            steps.append(streams.step(steps[-1]))
    return [list(tokens) for tokens in zip(*steps, strict=True)]


@pytest.mark.weights
@pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
def test_our_streams_continue_as_alone(smollm2_path: Path) -> None:
    ours = Ours(str(smollm2_path), 2, dtype="int8")
    prompts = [ours.tokens(text)[:LENGTH] for text in PROMPTS]
    assert side_by_side(ours, prompts) == [greedy(ours, ids) for ids in prompts]
    far = ours.tokens(PROMPTS[0]) * 40
    alone = ours.prefill(far)
    ours.step(1)
    assert ours.hold(far) == alone


@pytest.mark.weights
@pytest.mark.oracle
def test_llamas_streams_continue_as_alone(smollm2_path: Path) -> None:
    theirs = LlamaCpp(str(smollm2_path), 2, n_ctx=1_024)
    prompts = [theirs.tokens(text)[:LENGTH] for text in PROMPTS]
    assert side_by_side(theirs, prompts) == [greedy(theirs, ids) for ids in prompts]
    assert theirs.hold(prompts[0]) == greedy(theirs, prompts[0])[0]
    jobs = Jobs(theirs, theirs.tokens(PROMPTS[0]) * 60)
    assert jobs.decode(2, 400) > 0
    assert len(theirs._held) == 402
    assert jobs.decode(2, 400) > 0
    assert len(theirs._held) == 402


def test_comparison_with_float64_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(300, 50, generator=generator)
    other = exact[:-1] + 0.1 * torch.randn(299, 50, generator=generator)
    wanted = torch.randint(50, (299,), generator=generator)
    found = compare(exact, other, wanted)
    p, q = exact[:-1].double().softmax(1), other.double().softmax(1)
    assert found.divergence == pytest.approx((p * (p.log() - q.log())).sum(1).tolist(), abs=1e-9)
    assert found.nats == pytest.approx((-q.log()[range(299), wanted]).tolist())
    assert found.agrees == (p.argmax(1) == q.argmax(1)).tolist()
    assert nats_of(exact, wanted) == pytest.approx((-p.log()[range(299), wanted]).tolist())


def test_windows_go_through_all_documents_before_any_is_read_on() -> None:
    texts = ["a" * 10, "b" * 3, "c" * 4]

    def encode(text: str) -> list[int]:
        return list(text.encode())

    found = windows(texts, encode, 4, 3)
    assert found == [list(b"aaaa"), list(b"cccc"), list(b"aaaa")]
    with pytest.raises(ValueError, match="3 windows"):
        windows(texts, encode, 4, 4)


def test_chart_shows_what_has_a_target() -> None:
    def row(name: str, value: float, must: float | None) -> Row:
        return Row(name, value, "tokens/s", peer_value=1.0, must=must, judge="ratio", moonshot=4.0)

    chart = ratio_chart([row("met & drawn", 3.0, 2.0), row("missed", 1.0, 2.0), row("x", 9, None)])
    assert "met &amp; drawn" in chart
    assert chart.count('class="bar"') == chart.count('class="short"') == 1
    assert ">x<" not in chart


@pytest.mark.weights
@pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
def test_two_builds_take_turns_on_the_same_pages(
    smollm2_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = native.library()
    assert library is not None
    copy = Path(shutil.copy(library._name, tmp_path))
    with monkeypatch.context() as patch:
        patch.setenv("DEEPSEEK_NATIVE", library._name)
        bench = Bench(str(smollm2_path), [Path(library._name), copy])
        for job in (Job("prefill", 70), Job("decode", 3, 40), Job("streams", 2)):
            seconds = bench.compare(job, 2, 1)
            assert [len(times) for times in seconds] == [2, 2]
            assert min(map(min, seconds)) > 0
        first, second = (
            side.run([[1]], [sequence])
            for side in bench.sides
            for sequence in [bench.sequence.fork(bench.sequence.length)]
        )
        assert torch.equal(first, second)
        assert bench.sides[0].library is not bench.sides[1].library
    native.library.cache_clear()


def test_the_cost_is_that_of_the_fixed_library() -> None:
    fixed, free, copy = [1.1, 1.0, 1.2], [1.0, 1.0, 1.0], [1.1, 1.0, 1.2]
    cost, noise, rates = rows_of("m", Job("decode", 10, 8), (fixed, free, copy), 5.0)
    assert cost.value == pytest.approx(10)
    assert (cost.low, cost.high) == pytest.approx((0, 20))
    assert cost.is_met is False
    assert noise.value == 0
    assert (rates.value, rates.peer_value) == pytest.approx((10 / 1.1, 10))


def test_rows_that_were_not_asked_for_are_kept() -> None:
    before = read_rows("kernels")
    assert before
    new = Row("smollm2-135m int8 cache, decode 32 at 8000", 1.0, "tokens/s")
    both = with_kept([new], ["smollm2-135m"], ["cache"])
    old = [row for row in before if not (row.name.startswith("smoll") and " cache, " in row.name)]
    assert [row for row in both if row is not new] == old
    assert all(row.measured for row in old)
    only = with_kept([new], ["smollm2-135m"], ["products", "cache"])
    names = [row.name.split()[0] for row in only if row is not new]
    assert set(names) == {"qwen2.5-coder-1.5b"}
