"""Requests that use fewer experts: how many, alone and side by side, and what stays the same."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deepseek.core.errors import RequestError
from deepseek.core.llm import Completion, SamplingParams, ScoreRequest
from deepseek.engine.answer import check_experts
from deepseek.engine.engine import Engine
from deepseek.model.config import ModelConfig
from deepseek.model.moe.config import ExpertGroup, MoEConfig
from deepseek.model.moe.load import mixtures_of
from deepseek.model.transformer import Transformer
from deepseek.tokenizer.tokenizer import Tokenizer
from tiny_checkpoint import tiny_config, tiny_model

GROUPS = (ExpertGroup(name="general", sizes=(4, 8, 4, 8, 4, 8, 4, 8)),)
LOW_RANK = MoEConfig(form="low_rank", groups=GROUPS)
WITH_NULL = replace(LOW_RANK, budget=1.6)
FULL = MoEConfig(form="full", groups=GROUPS)
PROMPT = "You may reproduce and distribute copies of the Work " * 12
OTHER = "Unless required by applicable law or agreed to in writing " * 9
PARAMS = SamplingParams(max_tokens=40, temperature=1.0, seed=5)


def engine_of(folder: Path, moe: MoEConfig | None) -> Engine:
    config: ModelConfig = replace(tiny_config(), n_layers=2, moe=moe)
    model = tiny_model(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("_b"):
                parameter.normal_(0, 0.3, generator=generator)
    if moe is not None and moe.budget is not None:
        for layer in mixtures_of(model):
            layer.gate.start_budget(torch.randn(2_000, config.d_model, generator=generator))
    tokenizer = Tokenizer.from_folder(folder)
    cpu = torch.device("cpu")
    return Engine(model, tokenizer, name="tiny", dtype=torch.float32, device=cpu)


@pytest.fixture(scope="module")
def engines(tiny_folder: Path) -> dict[str, Engine]:
    kinds = {"low rank": LOW_RANK, "null": WITH_NULL, "full": FULL}
    return {name: engine_of(tiny_folder, moe) for name, moe in kinds.items()}


def asked(engine: Engine, share: float | None, prompt: str = PROMPT) -> Completion:
    return engine.generate(prompt, replace(PARAMS, expert_budget=share))


@pytest.mark.parametrize("name", ["low rank", "null", "full"])
def test_a_budget_of_one_changes_no_bit_and_counts(name: str, engines: dict[str, Engine]) -> None:
    engine = engines[name]
    ids = engine.encode(PROMPT)
    engine.forget()
    with engine._turn(-1):
        plain = engine.runner.read(ids)
    with engine._turn(-1, 1.0):
        counted = engine.runner.read(ids)
    assert torch.equal(plain, counted)
    without, whole = asked(engine, None), asked(engine, 1.0)
    assert without.experts is None
    assert whole.token_ids == without.token_ids
    used = whole.experts
    assert used is not None
    assert len(used.by_token) == whole.n_prompt_tokens + len(whole.token_ids) - 1
    assert len(used.by_layer) == 2
    assert used.mean == pytest.approx(sum(used.by_token) / len(used.by_token))
    if name == "null":
        assert 1.2 < used.mean < 2
    else:
        assert used.mean == used.slots == 2


@pytest.mark.parametrize(("name", "share"), [("low rank", 0.5), ("null", 0.7), ("full", 0.75)])
def test_a_lower_budget_uses_fewer_experts(
    name: str, share: float, engines: dict[str, Engine]
) -> None:
    whole, fewer = (asked(engines[name], s).experts for s in (1.0, share))
    assert whole is not None
    assert fewer is not None
    for mine, all_of_them in zip(fewer.by_layer, whole.by_layer, strict=True):
        assert mine == pytest.approx(share * all_of_them, rel=0.12)
    # What is used differs from token to token: hard ones have more.
    assert len(set(fewer.by_token)) > 2
    if name == "full":
        assert min(fewer.by_token) >= 1


def test_gates_count_what_is_used_and_nothing_else_is_computed(
    engines: dict[str, Engine],
) -> None:
    engine = engines["low rank"]
    assert isinstance(engine.runner.model, Transformer)
    layers = mixtures_of(engine.runner.model)
    engine.forget()
    for layer in layers:
        layer.take_load()
    used = asked(engine, 0.5).experts
    assert used is not None
    loads = [int(layer.take_load().sum()) for layer in layers]
    n_tokens = len(used.by_token)
    assert loads == [round(mean * n_tokens) for mean in used.by_layer]


def test_chunks_and_what_was_cached_change_nothing(engines: dict[str, Engine]) -> None:
    engine = engines["low rank"]
    ids = engine.encode(PROMPT + OTHER)
    engine.forget()
    with engine._turn(-1, 0.6):
        whole = engine.runner.read(ids).clone()
        before = engine.runner.experts_used()
        engine.runner.rewind(50)
        engine.runner.extend(ids[50:60])  # and on from there, cut elsewhere
        again = engine.runner.extend(ids[60:])[-1]
        assert engine.runner.experts_used() == before
    torch.testing.assert_close(again, whole)
    engine.forget()
    first, reused = asked(engine, 0.6), asked(engine, 0.6)
    assert reused.n_reused_tokens > first.n_reused_tokens
    assert (reused.token_ids, reused.experts) == (first.token_ids, first.experts)
    # What was read with all experts is not taken for a request with fewer.
    asked(engine, None)
    assert asked(engine, 0.6).n_reused_tokens == 0


@pytest.mark.parametrize("name", ["low rank", "null", "full"])
def test_side_by_side_nobody_is_disturbed(name: str, engines: dict[str, Engine]) -> None:
    engine = engines[name]
    prompts = [PROMPT, OTHER, PROMPT + "Work", PROMPT + "and", "Notice"]
    shares = [0.6, None, 0.8, 0.8, 1.0]
    each = [replace(PARAMS, expert_budget=share) for share in shares]
    alone = [engine.generate(p, one) for p, one in zip(prompts, each, strict=True)]
    together = dict(engine.generate_many(prompts, each))
    for number, one in enumerate(alone):
        assert together[number].token_ids == one.token_ids, number
        assert together[number].experts == one.experts, number


def test_what_is_scored_has_all_experts(engines: dict[str, Engine]) -> None:
    engine = engines["low rank"]
    request = ScoreRequest(PROMPT, ("a", "the"))
    before = engine.score(request.prompt, request.continuations)
    asked(engine, 0.5)
    assert engine.score(request.prompt, request.continuations) == before
    asked(engine, 0.5)
    assert next(engine.score_many([request])) == pytest.approx(before)


def test_models_that_cannot_save_experts_say_so(tiny_folder: Path, engine: Engine) -> None:
    with pytest.raises(RequestError, match="no experts"):
        engine.generate("Hello", SamplingParams(expert_budget=0.5))
    parts = MoEConfig(form="full", parts=2, groups=(replace(GROUPS[0], sizes=(24,) * 8),))
    for moe, said in (
        (parts, "cannot stay empty"),
        (replace(LOW_RANK, routing="hash"), "cannot stay empty"),
        (FULL, "keeps one of 2"),
    ):
        with pytest.raises(RequestError, match=said):
            check_experts(moe, SamplingParams(expert_budget=0.4), is_native=False)
    with pytest.raises(RequestError, match="through torch only"):
        check_experts(LOW_RANK, SamplingParams(expert_budget=0.5), is_native=True)
    check_experts(None, SamplingParams(), is_native=True)
