"""Learns a byte-level BPE from texts, for models that are trained from scratch."""

from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from deepseek.core.errors import ConfigError
from deepseek.tokenizer.template import CHATML
from deepseek.tokenizer.tokenizer import Tokenizer
from deepseek.tokenizer.vocabulary import Vocabulary

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Begins and ends of documents and turns; the first ends a document."""
SMALLEST = 256 + len(CONTROL)
"""Every byte, and control tokens: no merges."""


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, single_digits: bool = False
) -> Tokenizer:
    """Learn merges from texts.

    Args:
        texts: What to learn from.
        vocab_size: Entries in all, control tokens included.
        single_digits: Make no token of more than one digit.

    Raises:
        ConfigError: The vocabulary is too small for all bytes.
    """
    if vocab_size < SMALLEST:
        raise ConfigError(f"a vocabulary of {vocab_size}", f"bytes alone need {SMALLEST}")
    backend = tokenizers.Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = words
    if single_digits:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(CONTROL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    vocabulary = Vocabulary(
        backend=backend,
        control={token: i for i, token in enumerate(CONTROL)},
        bos_id=None,
        eos_ids=frozenset((0, CONTROL.index("<|im_end|>"))),
        add_bos=False,
        chat_template=CHATML,
    )
    return Tokenizer(vocabulary)
