"""Our model against llama.cpp on the same file: an oracle that shares no code with our reader."""

from pathlib import Path

import pytest
import torch
from transformers_peer import real_ids

from deepseek.engine.loader import load_engine

N_TOKENS = 256


@pytest.mark.oracle
@pytest.mark.weights
def test_next_token_distributions_of_smollm2(smollm2_path: Path) -> None:
    """llama.cpp rounds activations to 8 bits, so distributions are close and not equal."""
    from llama_cpp import Llama

    engine, _ = load_engine(str(smollm2_path), dtype="float32")
    ids = real_ids(engine.tokenizer)[:N_TOKENS]
    with torch.inference_mode():
        ours = engine.runner.model(torch.tensor([ids]))[0].double().log_softmax(-1)
    peer = Llama(str(smollm2_path), n_ctx=512, logits_all=True, verbose=False)
    peer.eval(ids)
    theirs = torch.from_numpy(peer.scores[:N_TOKENS].copy()).double().log_softmax(-1)
    divergence = (theirs.exp() * (theirs - ours)).sum(-1)
    assert float(divergence.median()) < 0.01
    assert float((ours.argmax(-1) == theirs.argmax(-1)).double().mean()) > 0.93
