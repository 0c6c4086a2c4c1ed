"""Adapters against PEFT itself, and against weights into which they were merged, in float32."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers_peer import real_ids, transformers_model

from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.engine.torch_runner import TorchRunner
from deepseek.model.adapter import fit
from deepseek.model.checkpoint import load_model
from deepseek.ops import native
from deepseek.weights.adapter import read_adapter
from deepseek.weights.source import open_weights
from peft_adapter import ALL, random_adapter

SIZES: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
}
N_TOKENS = 70


def base(family: str) -> PreTrainedModel:
    torch.manual_seed(3)
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)).eval()
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=False)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def runner_of(folder: Path) -> TorchRunner:
    model = load_model(open_weights(folder), dtype=torch.float32)
    return TorchRunner(model, dtype=torch.float32, device=torch.device("cpu"))


def some_ids(n: int = N_TOKENS) -> list[int]:
    return torch.randint(3, 200, (n,), generator=torch.Generator().manual_seed(5)).tolist()


def logits_with(runner: TorchRunner, adapter: Path, ids: list[int]) -> torch.Tensor:
    runner.use(runner.add_adapter(fit(read_adapter(adapter), runner.model.config)))
    return runner.extend(ids)


@torch.no_grad()
def merge(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """W + scale * B A, in place."""
    modules = dict(model.named_modules())
    for name, part in read_adapter(adapter).parts.items():
        weight = modules[name].weight
        assert isinstance(weight, torch.Tensor)
        weight += part.scale * (part.up.double() @ part.down.double()).float()
    return model


SETTINGS: dict[str, dict[str, Any]] = {
    "all": {"r": 8, "lora_alpha": 16},
    "attention": {"r": 4, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]},
    "patterns": {
        "r": 8,
        "lora_alpha": 12,
        "use_rslora": True,
        "rank_pattern": {"down_proj": 3, "layers.1.self_attn.k_proj": 17},
        "alpha_pattern": {"gate_proj": 5},
    },
    "some layers": {"r": 2, "layers_to_transform": [0, 2]},
}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks for it
@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("name", SETTINGS)
def test_logits_of_peft(tmp_path: Path, family: str, name: str) -> None:
    """What PEFT writes, and what it computes with it."""
    peft = pytest.importorskip("peft")
    model = base(family)
    model.save_pretrained(tmp_path / "base")
    given = {"target_modules": list(ALL), "task_type": "CAUSAL_LM"} | SETTINGS[name]
    config = peft.LoraConfig(**given, init_lora_weights=False)  # B is not zero
    adapted = peft.get_peft_model(model, config).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    ids = some_ids()
    with torch.inference_mode():
        theirs = adapted(torch.tensor([ids])).logits[0]
        with adapted.disable_adapter():
            without = adapted(torch.tensor([ids])).logits[0]
    runner = runner_of(tmp_path / "base")
    assert (runner.extend(ids) - without).abs().max() < 1e-4
    ours = logits_with(runner, tmp_path / "adapter", ids)
    assert (theirs - without).abs().max() > 0.3
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_logits_of_merged_weights(tmp_path: Path, family: str) -> None:
    model = base(family)
    model.save_pretrained(tmp_path / "base")
    runner = runner_of(tmp_path / "base")
    adapter = random_adapter(tmp_path / "adapter", runner.model.config)
    ids = some_ids()
    with torch.inference_mode():
        before = model(torch.tensor([ids])).logits[0]
        merged = merge(model, adapter)(torch.tensor([ids])).logits[0]
    assert (merged - before).abs().max() > 0.3
    assert (logits_with(runner, adapter, ids) - merged).abs().max() < 2e-4


def divergence(wanted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Nats, of each token."""
    log_wanted, log_found = wanted.double().log_softmax(-1), found.double().log_softmax(-1)
    return (log_wanted.exp() * (log_wanted - log_found)).sum(-1)


@pytest.mark.weights
def test_smollm2_whose_file_has_rotated_rows(smollm2_path: Path, tmp_path: Path) -> None:
    """GGUF has queries and keys of the Llama family in another order; adapters have not."""
    engine, _ = load_engine(str(smollm2_path), dtype="float32")
    config = engine.runner.model.config
    adapter = random_adapter(tmp_path / "adapter", config, rank=16, size=0.2)
    ids = real_ids(engine.tokenizer)[:150]
    plain, ours = logits_of(engine, adapter, ids)
    with torch.inference_mode():
        theirs = merge(transformers_model(smollm2_path), adapter)(torch.tensor([ids])).logits[0]
    assert (ours - theirs).abs().max() < 2e-3
    assert float(divergence(theirs, plain).median()) > 0.1
    del plain
    if native.is_available():
        fast, _ = load_engine(str(smollm2_path), dtype="int8")
        _, ours = logits_of(fast, adapter, ids)
        assert float(divergence(theirs, ours).median()) < 0.01


def logits_of(engine: Engine, adapter: Path, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Without and with it."""
    engine.load_adapter("it", adapter)
    return engine.logits(ids), engine.logits(ids, adapter="it")


def test_only_what_is_named_is_added(tmp_path: Path) -> None:
    """Each linear layer by itself, against merging it alone."""
    model = base("llama")
    model.save_pretrained(tmp_path / "base")
    runner, ids = runner_of(tmp_path / "base"), some_ids(20)
    config = runner.model.config
    for module in ALL:
        adapter = random_adapter(tmp_path / module, config, modules=[module], seed=7)
        with torch.inference_mode():
            merged = merge(base("llama"), adapter)(torch.tensor([ids])).logits[0]
        found = logits_with(runner, adapter, ids)
        assert (found - merged).abs().max() < 1e-4, module
