"""Which pages an answer recalled: counted as they are chosen, and shown with all text escaped."""

from pathlib import Path

import pytest
import torch
from test_engine import what
from test_saved_context import SMALL, TEXT, engine_like

from deepseek.core.errors import RequestError
from deepseek.core.llm import SamplingParams
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.engine.recall import EVERY, LOOKED_AT, Recall
from deepseek.engine.runner import first_asking
from deepseek.ops import native
from deepseek.ops.hierarchical import PAGE

PARAMS = SamplingParams(max_tokens=5)
PROMPT = TEXT + "\n\nWhat is a <b>Contributor</b>?"


def counted(engine: Engine, prompt: str) -> tuple[torch.Tensor, int]:
    """The slow way: read everything anew to the end of each four of the last tokens, those that
    ask in one pass."""
    ids = engine.tokenizer.encode(prompt, add_bos=True)
    n_layers, n_groups = engine.runner.model.config.n_layers, engine.runner.model.config.n_kv_heads
    counts = torch.zeros(n_layers, n_groups, -(-len(ids) // PAGE), dtype=torch.long)
    engine.runner.watch(True)
    asking = first_asking(len(ids))
    stops = range(len(ids), max(asking, len(ids) - LOOKED_AT), -EVERY)
    for stop in stops:
        engine.forget()
        engine.runner.fill(ids[:asking])
        engine.runner.asks_from = asking
        engine.runner.extend(ids[asking:stop])
        add(counts, engine)
    answer = engine.generate(prompt, PARAMS)
    engine.runner.read(ids)
    # The last token is not run, unless one came after it that ends the answer.
    steps = answer.token_ids if answer.finish_reason == "stop" else answer.token_ids[:-1]
    for token in steps:
        engine.runner.step(token)
        add(counts, engine)
    return counts, len(stops) + len(steps)


def add(counts: torch.Tensor, engine: Engine) -> None:
    recalled = engine.runner.recalled()
    assert recalled is not None
    for layer, groups in enumerate(recalled.tolist()):
        for group, pages in enumerate(groups):
            for page in pages:
                counts[layer, group, page] += 1


@pytest.fixture(scope="module")
def torch_engine(tiny_folder: Path) -> Engine:
    return load_engine(str(tiny_folder), dtype="float32", threads=1)[0]


@pytest.fixture(scope="module")
def recall(torch_engine: Engine) -> Recall:
    return engine_like(torch_engine, SMALL).explain(PROMPT, PARAMS)


def test_through_torch(torch_engine: Engine, recall: Recall) -> None:
    counts, n_looks = counted(engine_like(torch_engine, SMALL), PROMPT)
    assert recall.n_looks == n_looks
    different = (recall.counts - counts).abs().sum() / counts.sum()
    assert float(different) < 0.02  # two pages with nearly the same votes may change places
    check(recall)


@pytest.mark.weights
@pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
def test_in_the_library(smollm2_path: Path) -> None:
    loaded = load_engine(str(smollm2_path), dtype="int8", threads=1)[0]
    explained, other = engine_like(loaded, SMALL), engine_like(loaded, SMALL)
    recall = explained.explain(PROMPT, PARAMS)
    assert what(recall.completion) == what(other.generate(PROMPT, PARAMS))
    counts, n_looks = counted(other, PROMPT)
    assert recall.n_looks == n_looks
    assert torch.equal(recall.counts, counts)
    check(recall)
    assert explained.runner.recalled() is None  # nothing is noted any longer


def check(recall: Recall) -> None:
    assert recall.counts.shape[2] == len(recall.texts)
    assert not recall.counts[:, :, : recall.n_sinks].any()
    each = SMALL.recall // PAGE * recall.n_looks
    assert (recall.counts.sum(2) == each).all()
    assert sum(recall.shares) == pytest.approx(SMALL.recall / PAGE)
    most = recall.most(3)
    assert [page.share for page in most] == sorted((p.share for p in most), reverse=True)
    assert most[0].share == max(recall.shares)
    assert most[0].text == recall.texts[most[0].number]


def test_the_page_fetches_nothing_and_escapes_all(recall: Recall, tmp_path: Path) -> None:
    path = tmp_path / "recall.html"
    recall.write(path)
    text = path.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert "<script" not in text
    assert "http://" not in text.replace("http://www.apache.org", "")
    assert "<b>Contributor</b>" not in text
    assert text.count("<rect") > len(recall.texts)
    for page in recall.most(3):
        assert f"tokens {PAGE * page.number + 1:,}–" in text


def test_where_nothing_can_be_shown(torch_engine: Engine, recall: Recall, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="dense attention") as caught:
        engine_like(torch_engine, None).explain(PROMPT[:2_000], PARAMS)
    assert "context window beyond" in caught.value.hint
    with pytest.raises(RequestError, match="seen whole"):
        engine_like(torch_engine, SMALL).explain("Why?", PARAMS)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RequestError, match="cannot write"):
        recall.write(tmp_path / "file" / "recall.html")
