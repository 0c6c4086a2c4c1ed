"""From a few words to the experts of a conversion: `general=16x4,text=8x3+16x3`."""

import re

from deepseek.core.errors import ConfigError
from deepseek.model.moe.config import MAX_EXPERTS, ExpertGroup, Form, MoEConfig

DEFAULT = "general=16x4,text=8x3+16x3,code=16x3+24x3"
"""Ranks of 16 experts, 256 together: reasoning gains more from rank than knowledge does."""
GENERAL = "general"
"""The group that tokens of all domains may go to."""
RANK = 16
SHARED = 4
"""One part in this many of a layer's neurons is shared between slices."""


def plan_mixture(
    form: Form,
    d_ff: int,
    *,
    n_experts: int = 16,
    top_k: int = 2,
    groups: str | None = None,
    parts: int = 2,
    budget: float | None = None,
) -> MoEConfig:
    """The mixture that a dense model becomes.

    Args:
        form: What experts are.
        d_ff: Neurons of the dense layer.
        n_experts: In all groups.
        top_k: Experts of a token.
        groups: `name=SIZExN+SIZExN,…`, or `name=N` for N experts of the usual size. Sizes are
            ranks, or neurons. None: three domains for 16 experts of low rank, else one group.
        parts: Form `full`: in how many parts the layer is cut.
        budget: Experts of a token on average; None: always `top_k`.

    Raises:
        ConfigError: The words cannot be read, or the experts do not fit the layer.
    """
    if not 1 <= n_experts <= MAX_EXPERTS:
        raise ConfigError(f"{n_experts} experts", f"choose 1 to {MAX_EXPERTS:,}")
    if groups is None:
        is_usual = form == "low_rank" and n_experts == 16
        groups = DEFAULT if is_usual else f"{GENERAL}={n_experts}"
    if form == "full" and d_ff % parts:
        raise ConfigError(f"{d_ff} neurons cannot be cut into {parts} parts", "choose another")
    usual = {"low_rank": RANK, "full": d_ff // parts}.get(
        form, d_ff * (SHARED - 1) // SHARED // n_experts
    )
    made = tuple(_group(text, usual) for text in groups.split(","))
    total = sum(len(group.sizes) for group in made)
    if total != n_experts:
        raise ConfigError(
            f"the groups have {total} experts, {n_experts} are wanted",
            f"say --experts {total}, or change --groups",
        )
    size = sum(sum(group.sizes) for group in made)
    if form == "slices" and size > d_ff:
        raise ConfigError(
            f"the slices have {size:,} neurons, the layer {d_ff:,}", "make them smaller"
        )
    if form == "full" and any(n != usual for group in made for n in group.sizes):
        raise ConfigError(
            f"experts in form full are copies of {usual:,} neurons", "leave out their sizes"
        )
    return MoEConfig(
        form=form,
        groups=made,
        n_active_experts=top_k,
        shared=d_ff - size if form == "slices" else 0,
        parts=parts if form == "full" else 1,
        budget=budget,
    )


def _group(text: str, usual: int) -> ExpertGroup:
    name, equals, rest = (part.strip() for part in text.partition("="))
    if not equals or not re.fullmatch(r"\d{1,6}(x\d{1,4}(\+\d{1,6}x\d{1,4})*)?", rest):
        raise ConfigError(
            f"the group of experts {text!r} cannot be read",
            f"write name=N, or name=SIZExN+SIZExN, such as {DEFAULT}",
        )
    if "x" not in rest:
        rest = f"{usual}x{rest}"
    sizes: list[int] = []
    for run in rest.split("+"):
        size, _, count = run.partition("x")
        sizes += [int(size)] * int(count)
    return ExpertGroup(name=name, sizes=tuple(sizes), always=name == GENERAL)
