"""Which parameters may change in training, or which of their rows."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from jaxtyping import Int
from torch import Tensor, nn

from deepseek.core.config import suggest
from deepseek.core.errors import ConfigError

_PATTERN = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<first>\d+):(?P<last>\d+)\])?")


@dataclass(frozen=True, slots=True)
class Mask:
    """What may change; everything else stays as it is, to the last bit."""

    parts: Mapping[str, Int[Tensor, " R"] | None]
    """By parameter: the rows that may change (of its first axis), or None for all of it."""

    @classmethod
    def everything(cls, model: nn.Module) -> "Mask":
        """All parameters, whole."""
        return cls({name: None for name, _ in model.named_parameters()})

    @classmethod
    def matching(cls, model: nn.Module, patterns: Sequence[str]) -> "Mask":
        """Parameters whose names match shell patterns; `name[2:4]` is rows 2 and 3.

        Raises:
            ConfigError: A pattern matches nothing, or its rows are not there.
        """
        parameters = dict(model.named_parameters())
        rows: dict[str, list[range] | None] = {}
        for pattern in patterns:
            match = _PATTERN.fullmatch(pattern)
            names = [n for n in parameters if match and fnmatchcase(n, match["name"])]
            if match is None or not names:
                raise ConfigError(
                    f"{pattern!r} matches no parameter", suggest(pattern, parameters)[:400]
                )
            for name in names:
                if match["first"] is None:
                    rows[name] = None
                    continue
                wanted = range(int(match["first"]), int(match["last"]))
                if not wanted or wanted.stop > parameters[name].shape[0]:
                    raise ConfigError(
                        f"{name} has {parameters[name].shape[0]} rows, not {pattern!r}",
                        "write first and last row, the last one exclusive",
                    )
                own = rows.setdefault(name, [])
                if own is not None:
                    own.append(wanted)
        return cls({name: _joined(ranges) for name, ranges in rows.items()})

    def apply(self, model: nn.Module) -> None:
        """Ask for gradients only where something may change.

        Raises:
            ConfigError: A parameter or a row is not there, or there is nothing to train.
        """
        parameters = dict(model.named_parameters())
        for name, rows in self.parts.items():
            if name not in parameters:
                raise ConfigError(f"the model has no {name}", suggest(name, parameters)[:400])
            if rows is not None and not (
                0 <= int(rows.min()) <= int(rows.max()) < _n(parameters, name)
            ):
                raise ConfigError(f"{name} has {_n(parameters, name)} rows", "name rows it has")
        if not self.parts:
            raise ConfigError("nothing may change", "name parameters to train")
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in self.parts)

    def n_trained(self, model: nn.Module) -> int:
        """Numbers that may change."""
        total = 0
        for name, parameter in model.named_parameters():
            if name in self.parts:
                rows = self.parts[name]
                n_rows = parameter.shape[0] if rows is None else len(rows)
                total += parameter.numel() // parameter.shape[0] * n_rows
        return total


def _n(parameters: Mapping[str, Tensor], name: str) -> int:
    return parameters[name].shape[0]


def _joined(ranges: list[range] | None) -> Tensor | None:
    if ranges is None:
        return None
    return torch.tensor(sorted({row for wanted in ranges for row in wanted}))
