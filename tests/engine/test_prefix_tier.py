"""Answers with pages from a disk are to the last bit those without, whatever happened before."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_saved_context import engine_like
from test_scheduler import TINY_HIERARCHY, alone, random_params, random_prompts, runner_of
from tiny_native import native_engine

from deepseek.cli.main import main
from deepseek.core.device import choose_compute
from deepseek.core.errors import ConfigError
from deepseek.core.llm import Completion, SamplingParams
from deepseek.engine import cache_plan, prefix_tier
from deepseek.engine.cache_plan import plan_cache
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.engine.prefix_folder import PrefixFolder, PrefixSettings
from deepseek.engine.prefix_tier import PrefixTier, identity_of
from deepseek.model.budget import Budget, PageCounts
from deepseek.model.memory_plan import Share
from deepseek.ops import native
from deepseek.ops.hierarchical import PAGE, Hierarchy
from deepseek.weights.source import open_weights
from peft_adapter import random_tensors, write_adapter
from tiny_checkpoint import tiny_config

pytestmark = pytest.mark.skipif(
    not native.is_available() or os.name != "posix", reason="needs the kernels and Unix"
)
SAMPLED = SamplingParams(max_tokens=8, temperature=1.0, seed=5)
IDS = list(range(10, 410))
CHILD = """
import signal, sys
tiny, root, how, *sys.path[:0] = sys.argv[1:]
from pathlib import Path
from test_prefix_tier import IDS, SAMPLED, answer, engine_in, tier_of
from tiny_native import native_engine
engine = engine_in(native_engine(Path(tiny)), Path(root), None)
got = answer(engine, IDS, SAMPLED)
if how == "kill":
    for n in range(2_000):
        answer(engine, [3 + n % 500, *range(10, 200)], SAMPLED)
        print(n, flush=True)
if how == "limit":
    tier_of(engine).save()
print(got.n_reused_tokens, *got.token_ids, flush=True)
"""


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> Engine:
    """Has the weights, and nothing on a disk."""
    return native_engine(tiny_folder)


@pytest.fixture(scope="module", params=["dense", "hierarchical"])
def hierarchy(request: pytest.FixtureRequest) -> Hierarchy | None:
    return TINY_HIERARCHY if request.param == "hierarchical" else None


def engine_in(base: Engine, root: Path, hierarchy: Hierarchy | None, **settings: Any) -> Engine:
    """An engine over the same weights, as after a restart, with pages in a folder."""
    kept = settings.pop("prefixes", PrefixSettings(path=root))
    given: dict[str, Any] = {"fingerprint": lambda: "tiny", "prefixes": kept} | settings
    return engine_like(base, hierarchy, **given)


def tier_of(engine: Engine) -> PrefixTier:
    tier = runner_of(engine).prefixes
    assert tier is not None
    return tier


def answer(engine: Engine, ids: list[int], params: SamplingParams) -> Completion:
    return engine._submit(list(ids), params).result()


def saved(engine: Engine) -> Engine:
    assert tier_of(engine).save()
    return engine


def miss_of(engine: Engine, ids: list[int]) -> str:
    stream = engine._submit(list(ids), replace(SAMPLED, max_tokens=1))
    stream.result()
    return str(stream.request.miss)


def files(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.page"))


@pytest.mark.parametrize("seed", range(2))
def test_random_histories(
    base: Engine, hierarchy: Hierarchy | None, tmp_path: Path, seed: int
) -> None:
    """Restarts, evictions, damage and files that vanish; through the scheduler and the runner."""
    generator = random.Random(seed)
    plain = engine_like(base, hierarchy)
    prompts = random_prompts(generator, 8, 500)
    kept = PrefixSettings(path=tmp_path, most_bytes=60 << 16)
    pages = PageCounts(hot=34, nodes=12)
    budget = Budget(kv_format="bfloat16", context_window=2_000, pages=pages, peak_bytes=0)

    def begin() -> Engine:
        return engine_in(
            base, tmp_path, hierarchy, prefixes=kept, budget=budget, context_window=2_000
        )

    engine, n_back, reused = begin(), 0, 0
    for _ in range(30):
        prompt, params = generator.choice(prompts), random_params(generator, 12)
        match generator.randrange(6):
            case 0:
                saved(engine)
                n_back += tier_of(engine).folder.counts.read
                engine = begin()
            case 1 if files(tmp_path):
                file = generator.choice(files(tmp_path))
                data = bytearray(file.read_bytes())
                data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
                file.write_bytes(data)
            case 2 if files(tmp_path):
                generator.choice(files(tmp_path)).unlink()
            case 3:
                with engine._turn(), torch.inference_mode():
                    got = runner_of(engine).read(prompt)
                assert torch.equal(got, read_alone(plain, prompt))
            case _:
                got_answer = answer(engine, prompt, params)
                assert tuple(got_answer.token_ids) == alone(plain, prompt, params)
                reused += got_answer.n_reused_tokens
    saved(engine)
    assert n_back > 0
    assert reused > 0
    assert sum(file.stat().st_size for file in files(tmp_path)) <= kept.most_bytes


@torch.inference_mode()
def read_alone(plain: Engine, prompt: list[int]) -> torch.Tensor:
    runner = runner_of(plain)
    runner.rewind(0)
    tree, runner.tree = runner.tree, None
    logits = runner.read(prompt)
    runner.tree = tree
    return logits


def test_pages_come_back_to_the_last_bit(
    base: Engine, hierarchy: Hierarchy | None, tmp_path: Path
) -> None:
    first = engine_in(base, tmp_path, hierarchy)
    wanted = answer(first, IDS, SAMPLED)
    saved(first)
    second = engine_in(base, tmp_path, hierarchy)
    again = answer(second, IDS, SAMPLED)
    assert again.token_ids == wanted.token_ids
    n_shared = (len(IDS) - 1 if hierarchy is None else len(IDS) - 128) // PAGE
    assert again.n_reused_tokens == n_shared * PAGE
    assert tier_of(second).folder.counts.read == n_shared
    for node_a, node_b in zip(nodes_of(first), nodes_of(second), strict=True):
        assert node_a.digest == node_b.digest
        assert torch.equal(content(first, node_a), content(second, node_b))
    # The runner's way of taking them.
    third = engine_in(base, tmp_path, hierarchy)
    with third._turn():
        runner_of(third).read(IDS)
    assert tier_of(third).folder.counts.read == n_shared


def nodes_of(engine: Engine) -> list[Any]:
    return [node for node in tier_of(engine)._tree.nodes() if (node.place + 1) * PAGE <= 256]


def content(engine: Engine, node: Any) -> torch.Tensor:
    return tier_of(engine)._content(node)


def test_what_memory_has_no_room_for_comes_back_from_the_disk(
    base: Engine, hierarchy: Hierarchy | None, tmp_path: Path
) -> None:
    pages = PageCounts(hot=10, nodes=8)
    budget = Budget(kv_format="bfloat16", context_window=600, pages=pages, peak_bytes=0)
    engine = engine_in(base, tmp_path, hierarchy, budget=budget, context_window=600)
    prompts = [[n, *IDS] for n in range(3, 7)]
    wanted = [alone(engine_like(base, hierarchy), prompt, SAMPLED) for prompt in prompts]
    for _ in range(3):
        for prompt, tokens in zip(prompts, wanted, strict=True):
            got = answer(engine, prompt, SAMPLED)
            assert tuple(got.token_ids) == tokens
            saved(engine)
    assert got.n_reused_tokens >= 256
    assert tier_of(engine).folder.counts.read > 20
    assert tier_of(engine).n_lost == 0


def test_long_beginnings_come_back_in_portions_beside_answers(
    base: Engine, hierarchy: Hierarchy | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_tier, "FETCHED_BESIDE", 2)
    monkeypatch.setattr(base.tokenizer, "eos_ids", frozenset())
    saved_by = engine_in(base, tmp_path, hierarchy)
    prompts = [[n, *IDS * 2] for n in range(3, 6)]
    wanted = [alone(engine_like(base, hierarchy), prompt, SAMPLED) for prompt in prompts]
    for prompt in prompts:
        answer(saved_by, prompt, SAMPLED)
    saved(saved_by)
    engine = engine_in(base, tmp_path, hierarchy)
    other = engine._submit(IDS[:50], SamplingParams(max_tokens=400))
    next(other)
    streams = [engine._submit(list(prompt), SAMPLED) for prompt in prompts]
    got = [stream.result() for stream in streams]
    assert [tuple(one.token_ids) for one in got] == wanted
    assert all(one.n_reused_tokens >= 640 for one in got)
    other.close()


def test_each_miss_says_why(base: Engine, tmp_path: Path) -> None:
    engine = engine_in(base, tmp_path, None)
    answer(engine, IDS, SAMPLED)
    third = saved(engine) and tier_of(engine)._tree.nodes()[2]
    file = next(f for f in files(tmp_path) if f.stem == third.digest.hex())
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert miss_of(engine_in(base, tmp_path, None), IDS) == "damaged on disk"
    # What was read anew may be written already.
    assert not file.exists() or not file.read_bytes().endswith(b"?")
    other = engine_in(base, tmp_path, None, fingerprint=lambda: "other")
    assert miss_of(other, IDS) == "read with other weights or settings"
    assert miss_of(engine_in(base, tmp_path, None), [5] * 300) == "never seen"
    assert miss_of(engine_in(base, tmp_path, None), IDS[:50]) == "shorter than a page"


def test_a_beginning_that_was_dropped_for_size_says_so(base: Engine, tmp_path: Path) -> None:
    kept = PrefixSettings(path=tmp_path, most_bytes=4 * ((1 << 16) + 128))
    engine = engine_in(base, tmp_path, None, prefixes=kept)
    for n in (3, 4, 5):
        answer(engine, [n, *IDS], SAMPLED)
        saved(engine)
        assert len(files(tmp_path)) <= 4
    engine.forget()
    assert miss_of(engine, [3, *IDS]) == "dropped for size"


def test_what_leaves_memory_before_it_was_written_is_copied(
    base: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody writes while a turn lasts; of what leaves the tree in it, two pages find room."""
    engine = engine_in(base, tmp_path, None)
    tier, runner = tier_of(engine), runner_of(engine)
    monkeypatch.setattr(prefix_tier, "QUEUE_BYTES", 2 * tier.folder.size)
    with engine._turn():
        runner.read(IDS)
        runner.rewind(0)
        for _ in range(4):
            assert tier._tree.evict()
        assert not files(tmp_path)
        assert (len(tier._tree), tier.n_lost) == (2, 2)
    saved(engine)
    assert len(files(tmp_path)) == 4
    assert answer(engine, IDS, SAMPLED).n_reused_tokens == 2 * PAGE


def test_of_an_old_prompt_the_end_is_dropped_first(base: Engine, tmp_path: Path) -> None:
    kept = PrefixSettings(path=tmp_path, most_bytes=12 * ((1 << 16) + 128))
    engine = engine_in(base, tmp_path, None, prefixes=kept)
    for n in (3, 4, 5):
        answer(engine, [n] * (400 if n < 5 else 200), SAMPLED)
        saved(engine)
    tree, folder = tier_of(engine)._tree, tier_of(engine).folder
    digests = [list(tree.following([n] * 400, 400, ())) for n in (3, 4, 5)]
    there = [[folder.has(digest) for digest in of_one] for of_one in digests]
    assert there == [[True] * 3 + [False] * 3, [True] * 6, [True] * 3 + [False] * 3]


def test_too_little_room_is_a_reason(base: Engine, tmp_path: Path) -> None:
    saved_by = engine_in(base, tmp_path, None)
    answer(saved_by, IDS, SAMPLED)
    saved(saved_by)
    engine = engine_in(base, tmp_path, None)
    tier = tier_of(engine)
    tier._room._n_pages = 2
    with engine._turn():
        assert not tier.fetch(IDS, len(IDS))
        match = tier._tree.match(IDS, len(IDS), in_pages=True)
    assert (match.length, str(match.miss)) == (2 * PAGE, "no room in memory")


def test_numbers_that_no_model_computes_are_damage(base: Engine, tmp_path: Path) -> None:
    """Checksums are right: whoever wrote this wanted it."""
    engine = engine_in(base, tmp_path, None)
    wanted = answer(engine, IDS, SAMPLED)
    saved(engine)
    folder = tier_of(engine).folder
    node = tier_of(engine)._tree.nodes()[3]
    bad = torch.full((folder.size // 2,), torch.inf, dtype=torch.bfloat16).view(torch.uint8)
    folder.write(node.digest, bad[: folder._n_bytes])
    again = engine_in(base, tmp_path, None)
    got = answer(again, IDS, SAMPLED)
    assert (got.token_ids, got.n_reused_tokens) == (wanted.token_ids, 3 * PAGE)
    assert tier_of(again).folder.counts.damaged == 1
    again.forget()
    assert runner_of(again).decoder.pool.n_used == 0


def test_tenants_share_nothing(base: Engine, tmp_path: Path) -> None:
    for n, tenant in enumerate(("", "one", "two")):
        kept = PrefixSettings(path=tmp_path, tenant=tenant)
        engine = engine_in(base, tmp_path, None, prefixes=kept)
        assert answer(engine, IDS, SAMPLED).n_reused_tokens == 0
        saved(engine)
        assert len(files(tmp_path)) == (n + 1) * (len(IDS) // PAGE)
        again = engine_in(base, tmp_path, None, prefixes=kept)
        assert answer(again, IDS, SAMPLED).n_reused_tokens == len(IDS) // PAGE * PAGE


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders of one name; the third has the first one's matrices with another scale."""
    root = tmp_path_factory.mktemp("adapters")
    tensors = [random_tensors(tiny_config(), 8, seed=seed, size=0.5) for seed in (1, 2)]
    return [
        write_adapter(root / "0" / "style", tensors[0]),
        write_adapter(root / "1" / "style", tensors[1]),
        write_adapter(root / "2" / "style", tensors[0], lora_alpha=24),
    ]


def asked(engine: Engine, adapter: str | None) -> Completion:
    return engine._submit(list(IDS), SAMPLED, adapter=adapter).result()


def test_pages_of_an_adapter_come_back_for_its_content_only(
    base: Engine, hierarchy: Hierarchy | None, tmp_path: Path, adapters: list[Path]
) -> None:
    """Restarts and reloading, under one name and others: never another one's pages."""
    wanted = list[tuple[int, ...]]()
    plain = engine_like(base, hierarchy)
    for folder in adapters:
        plain.load_adapter("style", folder)
        wanted.append(tuple(asked(plain, "style").token_ids))
        plain.unload_adapter("style")
    wanted.append(tuple(asked(plain, None).token_ids))
    assert len(set(wanted)) == 4
    n_pages = (len(IDS) - 1 if hierarchy is None else len(IDS) - 128) // PAGE
    # One engine, in which each takes the name of the one before; without one in the end.
    first = engine_in(base, tmp_path, hierarchy)
    for folder, tokens in zip(adapters, wanted, strict=False):
        first.load_adapter("style", folder)
        got = asked(first, "style")
        assert (tuple(got.token_ids), got.n_reused_tokens) == (tokens, 0)
        first.unload_adapter("style")  # some pages are not written yet
    assert asked(first, None).n_reused_tokens == 0
    saved(first)
    assert len(files(tmp_path)) >= 4 * n_pages
    # After a restart, in another order and under other names.
    second = engine_in(base, tmp_path, hierarchy)
    for name, number in (("style", 1), ("other", 2), ("third", 0)):
        second.load_adapter(name, adapters[number])
        got = asked(second, name)
        assert (tuple(got.token_ids), got.n_reused_tokens) == (wanted[number], n_pages * PAGE)
    assert asked(second, None).n_reused_tokens == n_pages * PAGE
    assert tier_of(second).folder.counts.read == 4 * n_pages
    # Again in the same process, after unloading and from the runner's sequence.
    second.unload_adapter("third")
    second.load_adapter("style again", adapters[0])
    with second._turn(second.adapters[-1].number):
        runner_of(second).read(IDS)
    assert tier_of(second).folder.counts.read == 5 * n_pages
    again = asked(second, "style again")
    assert (tuple(again.token_ids), again.n_reused_tokens) == (wanted[0], n_pages * PAGE)


def test_two_names_of_one_content_and_tenants(
    base: Engine, tmp_path: Path, adapters: list[Path]
) -> None:
    engine = engine_in(base, tmp_path, None)
    for name in ("a", "b"):
        engine.load_adapter(name, adapters[0])
    got = [asked(engine, name) for name in ("a", "b", "a")]
    assert len({tuple(one.token_ids) for one in got}) == 1
    for name in ("a", "b"):  # what one leaves is the other's, too
        engine.unload_adapter(name)
        saved(engine)
        assert runner_of(engine).decoder.pool.n_used <= len(IDS) // PAGE + 1
    kept = PrefixSettings(path=tmp_path, tenant="one")
    other = engine_in(base, tmp_path, None, prefixes=kept)
    other.load_adapter("a", adapters[0])
    assert asked(other, "a").n_reused_tokens == 0
    back = engine_in(base, tmp_path, None)
    back.load_adapter("c", adapters[0])
    assert asked(back, "c").n_reused_tokens == len(IDS) // PAGE * PAGE


def test_requests_with_adapters_are_cancelled_and_come_back(
    base: Engine, hierarchy: Hierarchy | None, tmp_path: Path, adapters: list[Path]
) -> None:
    """With few pages, side by side; those that are cancelled leave what they had read."""
    pages = PageCounts(hot=16, nodes=12)
    budget = Budget(kv_format="bfloat16", context_window=600, pages=pages, peak_bytes=0)
    names = dict(zip("abc", adapters, strict=True))
    plain = engine_like(base, hierarchy)
    for name, folder in names.items():
        plain.load_adapter(name, folder)
    for _ in range(2):
        engine = engine_in(base, tmp_path, hierarchy, budget=budget, context_window=600)
        engine._adapters.memory = None  # it is the pages that are few here
        for name, folder in names.items():
            engine.load_adapter(name, folder)
        asked_by = (None, *names)
        streams = {name: engine._submit(list(IDS), SAMPLED, adapter=name) for name in asked_by}
        streams["b"].cancel()
        for name, stream in streams.items():
            got = stream.result()
            tokens = asked(plain, name).token_ids
            assert tuple(got.token_ids) == tuple(tokens[: len(got.token_ids)])
            assert name == "b" or len(got.token_ids) == len(tokens)
        saved(engine)
        engine.forget()
        assert runner_of(engine).decoder.pool.n_used == 0
    assert tier_of(engine).folder.counts.read > 0


def test_all_that_decides_the_numbers_is_in_the_identity(
    base: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = runner_of(base).decoder
    decoder = runner_of(engine_like(base, TINY_HIERARCHY)).decoder
    other = replace(TINY_HIERARCHY, recall=128)
    found = [
        identity_of("a", dense, None),
        identity_of("b", dense, None),
        identity_of("a", decoder, TINY_HIERARCHY),
        identity_of("a", decoder, other),
    ]
    monkeypatch.setattr(native, "level", lambda: "another")
    found.append(identity_of("a", dense, None))
    monkeypatch.setattr(native, "build", lambda: "another")
    found.append(identity_of("a", dense, None))
    assert len(set(found)) == len(found)


def test_a_full_disk_ends_writing_and_nothing_else(
    base: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(handle: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    engine = engine_in(base, tmp_path, None)
    for n in range(3, 6):
        ids = [n, *IDS]
        got = answer(engine, ids, SAMPLED)
        saved(engine)
        assert tuple(got.token_ids) == alone(engine_like(base, None), ids, SAMPLED)
    assert [record.message for record in caplog.records] == [
        "the prefix cache is not written any more: [Errno 28] No space left on device"
    ]
    assert not files(tmp_path)
    monkeypatch.undo()
    tier_of(engine)._rests_until = 0  # later
    saved(engine)
    assert files(tmp_path)


@pytest.mark.parametrize("change", ["gone", "locked away", "a file"])
def test_a_folder_that_is_lost_meanwhile(
    base: Engine, tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "root"
    engine = engine_in(base, root, None)
    answer(engine, IDS, SAMPLED)
    saved(engine)
    (inner,) = (path for path in root.iterdir() if len(path.name) == 32)
    match change:
        case "gone":
            shutil.rmtree(root)
        case "locked away":
            inner.rename(tmp_path / "away")
        case "a file":
            inner.rename(tmp_path / "away")
            inner.write_text("x")
    engine.forget()
    for n in (3, 4):
        ids = [n, *IDS]
        assert tuple(answer(engine, ids, SAMPLED).token_ids) == alone(
            engine_like(base, None), ids, SAMPLED
        )
        saved(engine)
    assert len(caplog.records) == 1


def child(tiny_folder: Path, root: Path, how: str, **settings: Any) -> subprocess.Popen[str]:
    tests = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tiny_folder), str(root), how, str(tests),
         str(tests.parent)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings,
    )  # fmt: skip


def test_a_restart_of_the_process(base: Engine, tiny_folder: Path, tmp_path: Path) -> None:
    """What the end of a program writes, the next one finds."""
    wanted = [str(token) for token in alone(base, IDS, SAMPLED)]
    for reused in ("0", str(len(IDS) // PAGE * PAGE)):
        out, error = child(tiny_folder, tmp_path, "end").communicate()
        assert out.split() == [reused, *wanted], error


def test_killed_while_it_writes(base: Engine, tiny_folder: Path, tmp_path: Path) -> None:
    run = child(tiny_folder, tmp_path, "kill")
    with run:
        assert run.stdout is not None
        while len(files(tmp_path)) < 12 and run.poll() is None:
            run.stdout.readline()
        run.send_signal(signal.SIGKILL)
    found = files(tmp_path)
    assert len(found) >= 12
    engine = engine_in(base, tmp_path, None)
    folder = tier_of(engine).folder
    assert all(folder.read(bytes.fromhex(file.stem)) is not None for file in found)
    got = answer(engine, IDS, SAMPLED)
    assert tuple(got.token_ids) == alone(base, IDS, SAMPLED)
    assert got.n_reused_tokens == len(IDS) // PAGE * PAGE


def test_a_limit_of_file_size_is_a_full_disk(
    base: Engine, tiny_folder: Path, tmp_path: Path
) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    run = child(tiny_folder, tmp_path, "limit", preexec_fn=limit)
    out, error = run.communicate()
    assert out.split() == ["0", *map(str, alone(base, IDS, SAMPLED))]
    assert "not written any more" in error
    assert not files(tmp_path)
    assert not list((tmp_path / "new").iterdir())


def test_two_engines_at_once(base: Engine, hierarchy: Hierarchy | None, tmp_path: Path) -> None:
    one, two = (engine_in(base, tmp_path, hierarchy) for _ in range(2))
    wanted = alone(engine_like(base, hierarchy), IDS, SAMPLED)
    streams = [engine._submit(list(IDS), SAMPLED) for engine in (one, two)]
    assert [tuple(stream.result().token_ids) for stream in streams] == [wanted] * 2
    saved(one)
    saved(two)
    n_pages = len(files(tmp_path))
    two.forget()
    assert tuple(answer(two, IDS, SAMPLED).token_ids) == wanted
    assert tier_of(two).folder.counts.read > 0
    assert len(files(saved(two) and tmp_path)) == n_pages


def test_closing_writes_what_is_left(base: Engine, tmp_path: Path) -> None:
    engine = engine_in(base, tmp_path, None)
    answer(engine, IDS, SAMPLED)
    engine.close()
    assert len(files(tmp_path)) == len(IDS) // PAGE


def test_only_where_pages_can_be_kept(tiny_folder: Path, tmp_path: Path) -> None:
    kept = PrefixSettings(path=tmp_path)
    settings: dict[str, Any] = {"dtype": "float32", "threads": 1}
    with pytest.raises(ConfigError, match="quantised weights"):
        load_engine(str(tiny_folder), prefixes=kept, **settings)
    engine, _ = load_engine(str(tiny_folder), prefixes=replace(kept, is_required=False), **settings)
    assert engine.generate("Hello", SamplingParams(max_tokens=2)).n_prompt_tokens
    assert not list(tmp_path.iterdir())


@pytest.mark.weights
def test_a_memory_budget_counts_copies(smollm2_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_plan, "resident_bytes", lambda: 200 << 20)
    source = open_weights(smollm2_path)
    compute = replace(choose_compute("cpu", "auto", 1), quantised=True)
    budgets = [
        plan_cache(
            source,
            compute,
            kv_dtype="bfloat16",
            kv_disk=None,
            memory_budget=1 << 30,
            context_window=2_000,
            attention="dense",
            others=(Share("copies", reserved),),
        ).budget
        for reserved in (0, prefix_tier.COPIED_BYTES)
    ]
    assert budgets[0] is not None
    assert budgets[1] is not None
    assert budgets[0].pages.hot - budgets[1].pages.hot in (27, 28)  # 40 MiB of 1.5 MB each


@pytest.mark.weights
def test_the_command_line(
    smollm2_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["generate", "The ship left at noon. " * 40, "--raw", "--max-tokens", "4",
             "--model", str(smollm2_path), "--json", "--threads", "1"]  # fmt: skip
    cached = [*asked, "--prefix-cache", str(tmp_path), "--prefix-cache-size", "100MB"]
    outputs = []
    for arguments in (asked, cached):
        assert main(arguments) == 0
        outputs.append(capsys.readouterr().out)
    prefix_tier._save_all()
    assert main(cached) == 0
    again = capsys.readouterr().out
    assert '"n_reused_tokens": 0' in outputs[1]
    assert '"n_reused_tokens": 0' not in again
    assert len({text_of(output) for output in (*outputs, again)}) == 1
    assert main([*asked, "--prefix-cache-size", "1GiB"]) == 2
    assert "no folder" in capsys.readouterr().err


def text_of(output: str) -> str:
    return next(line for line in output.splitlines() if '"text"' in line)


def test_the_folder_is_a_real_one(base: Engine, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not hold a page"):
        engine_in(base, tmp_path, None, prefixes=PrefixSettings(path=tmp_path, most_bytes=1_000))
    assert isinstance(tier_of(engine_in(base, tmp_path, None)).folder, PrefixFolder)
