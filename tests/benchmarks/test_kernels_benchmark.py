"""The benchmarks time what they say: streams continue as alone, windows and charts are right."""

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
from peers import Jobs
from report import Row

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
