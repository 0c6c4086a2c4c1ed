"""Ours and transformers' model on the same dequantised weights, one in memory at a time."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from deepseek.backends.transformers_model import load_transformers
from deepseek.core.llm import Message
from deepseek.engine.loader import load_engine
from deepseek.engine.runner import Runner
from deepseek.tokenizer.tokenizer import Tokenizer
from deepseek.weights.source import open_weights

Answer = tuple[list[int], list[int]]  # ids of a prompt and of what was answered
ROOT = Path(__file__).parents[2]
CHINESE = (
    "长上下文语言模型需要在有限的内存中保存很长的历史。本文提出一种分层注意力机制:每个词元关注其前后的"
    "局部窗口,而较远的内容由压缩的记忆节点表示。实验表明,该方法在保持准确率的同时显著降低了推理内存。"
)
QUESTIONS = (
    "Write a Python function that returns the n-th Fibonacci number.",
    "What is the capital of France, and what is it known for?",
    "Explain how a binary search works.",
    "Write a haiku about the sea.",
    "用一句话解释什么是机器学习。",
    "Translate to German: The house is small but warm.",
    "List five common sorting algorithms with their complexity.",
    "Why is the sky blue?",
    "Write a SQL query that counts orders per customer.",
    "What is 17 * 23? Think step by step.",
    "Summarise the plot of Romeo and Juliet in three sentences.",
    "Write a C function that reverses a string in place.",
    "写一个计算平均值的 Python 函数。",
    "What are the advantages of unit tests?",
    "Describe photosynthesis to a ten-year-old.",
    "Write a regular expression for an e-mail address and explain it.",
    "Who wrote The Origin of Species, and when?",
    "Give me a recipe for pancakes.",
    "What is the difference between a list and a tuple in Python?",
    "Write a short letter that declines an invitation politely.",
)


def real_ids(tokenizer: Tokenizer) -> list[int]:
    """At least 512 tokens of English, code and Chinese."""
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    code = (ROOT / "src/deepseek/model/transformer.py").read_text(encoding="utf-8")
    parts = [tokenizer.encode(text) for text in (licence, code, CHINESE)]
    joined = parts[0][:300] + parts[1][:250] + parts[2][:90]
    assert len(joined) >= 512
    return joined


def transformers_model(path: Path) -> PreTrainedModel:
    """transformers' own model class with the tensors that our reader dequantises, in float32."""
    return load_transformers(open_weights(path), torch.float32)


def logits_of_both(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits over the real tokens: ours (read in one chunk) and transformers'."""
    engine, _ = load_engine(str(path), dtype="float32")
    ids = real_ids(engine.tokenizer)
    with torch.inference_mode():
        ours = engine.runner.model(torch.tensor([ids]))[0]
        del engine
        theirs = transformers_model(path)(torch.tensor([ids])).logits[0]
    return ours, theirs


def greedy_answers(path: Path, questions: Sequence[str], n_tokens: int) -> list[Answer]:
    """Our cached greedy decoding. It does not stop at an end token: each answer is that long."""
    engine, _ = load_engine(str(path), dtype="float32")
    prompts = [engine.tokenizer.encode_chat([Message("user", q)]) for q in questions]
    return [(prompt, _greedy(engine.runner, prompt, n_tokens)) for prompt in prompts]


def generated(model: PreTrainedModel, prompt: list[int], n_tokens: int) -> list[int]:
    """The answer of transformers' own `generate`."""
    batch = torch.tensor([prompt])
    mask = torch.ones_like(batch)
    output = model.generate(batch, attention_mask=mask, do_sample=False, max_new_tokens=n_tokens)
    return output[0, len(prompt) :].tolist()


@torch.inference_mode()
def likeliest(model: PreTrainedModel, prompt: list[int], answer: list[int]) -> list[int]:
    """transformers' first choice at every position of an answer, given all before it.

    If that is the answer itself, greedy decoding gives this answer, by induction. It costs one
    pass instead of one a token.
    """
    logits = model(torch.tensor([prompt + answer])).logits[0]
    return logits[len(prompt) - 1 : -1].argmax(-1).tolist()


def _greedy(runner: Runner, prompt: list[int], n_tokens: int) -> list[int]:
    """The likeliest token, again and again."""
    logits = runner.read(prompt)
    answer: list[int] = []
    while True:
        answer.append(int(logits.argmax()))
        if len(answer) == n_tokens:
            return answer
        logits = runner.step(answer[-1])
