"""The operators by name. Only those that a run uses are imported."""

import importlib

from deepseek.core.config import suggest
from deepseek.core.errors import ConfigError
from deepseek.data.quality.operator import Operator

OPERATORS = {
    "language": "language:Language",
    "gopher": "gopher:Gopher",
    "repetition": "repetition:Repetition",
    "c4": "c4:C4",
    "fineweb": "fineweb:FineWeb",
    "exact": "exact:Exact",
    "minhash": "minhash:MinHash",
    "perplexity": "perplexity:Perplexity",
    "classifier": "classifier:Classifier",
    "decontamination": "decontamination:Decontamination",
    "pii": "pii:Pii",
    "secrets": "secrets:Secrets",
    "bits_per_byte": "bits_per_byte:BitsPerByte",
    "semantic_entropy": "semantic_entropy:SemanticEntropy",
}
"""Name, module of this package and class."""


def operator_class(name: str) -> type[Operator]:
    """The class of an operator.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in OPERATORS:
        raise ConfigError(f"unknown operator {name!r}", suggest(name, OPERATORS))
    module, _, kind = OPERATORS[name].partition(":")
    found: type[Operator] = getattr(
        importlib.import_module(f"deepseek.data.quality.{module}"), kind
    )
    return found
