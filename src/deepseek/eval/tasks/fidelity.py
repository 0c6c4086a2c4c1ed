"""How closely one model follows another, token by token: what quantisation or pruning changed."""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from deepseek.core.errors import RequestError
from deepseek.core.llm import LanguageModel
from deepseek.eval.task import Grades, Item, Passage, Setup, Task
from deepseek.eval.tasks.perplexity import read_text, segments, text_files

WINDOW = 512


@runtime_checkable
class LogitsModel(Protocol):
    """A model that shows its whole distributions."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ...

    def logits(self, token_ids: Sequence[int]) -> Float[Tensor, "T V"]:
        """Float32 logits after each token."""
        ...


def items(setup: Setup) -> Iterator[Passage]:
    """The text in windows."""
    folder = setup.need_folder("fidelity", "a text file, or a folder of .txt, .md or .rst files")
    length = setup.lengths[0] if setup.lengths else WINDOW
    for path in text_files(folder):
        name = path.name if path == folder else str(path.relative_to(folder))
        for index, piece in enumerate(segments(read_text(path), length, setup.model)):
            yield Passage(id=f"{name}/{index}", text=piece, group=name)


def compare_models(
    model: LanguageModel, setup: Setup, passages: Sequence[Item]
) -> Iterator[tuple[Item, Grades]]:
    """Both models' distributions after every token of each passage.

    Raises:
        RequestError: There is no second model, or their tokens differ.
    """
    if setup.against is None:
        raise RequestError("fidelity compares two models", "name the other with --against")
    for one in (model, setup.against):
        if not isinstance(one, LogitsModel):
            raise RequestError(f"{one.name} does not show its logits", "use --backend engine")
    assert isinstance(model, LogitsModel)
    assert isinstance(setup.against, LogitsModel)
    for item in passages:
        assert isinstance(item, Passage)
        ids = model.encode(item.text)
        if ids != setup.against.encode(item.text):
            raise RequestError("the two models have different tokens", "compare within a family")
        if len(ids) > 1:
            yield item, divergence(model.logits(ids)[:-1], setup.against.logits(ids)[:-1], ids[1:])


def divergence(
    ours: Float[Tensor, "T V"], theirs: Float[Tensor, "T V"], following: Sequence[int]
) -> Grades:
    """Kullback-Leibler divergence from the reference, in nats, and how often both agree.

    Args:
        ours: Logits of the model that is judged.
        theirs: Logits of the reference.
        following: The token that really follows each place.
    """
    n = len(following)
    kl = agree = ours_nats = theirs_nats = 0.0
    for start in range(0, n, 64):
        part = slice(start, start + 64)
        target = torch.tensor(following[part], device=ours.device)
        p = theirs[part].double().log_softmax(-1)
        q = ours[part].double().log_softmax(-1)
        kl += float((p.exp() * (p - q)).nan_to_num(0.0).sum())
        agree += float((p.argmax(-1) == q.argmax(-1)).sum())
        ours_nats -= float(q.gather(1, target[:, None]).sum())
        theirs_nats -= float(p.gather(1, target[:, None]).sum())
    sums = {
        "top1_agreement": agree,
        "kl_nats": kl,
        "nats_per_token": ours_nats,
        "reference_nats_per_token": theirs_nats,
    }
    grades: dict[str, float] = {}
    for name, total in sums.items():
        grades |= {name: total / n, f"{name}/weight": float(n)}
    return grades


def not_graded(item: Item, answer: object) -> Grades:
    """Never called: `compare_models` grades."""
    raise AssertionError(f"fidelity grades {item.id} itself")


TASK = Task(
    name="fidelity",
    summary="how closely a model follows another one (--against) on a text of your own",
    protocol="windows of 512 tokens or of --lengths; KL(reference || model) and agreement of the "
    "likeliest token, averaged over all tokens but a window's first",
    metric="top1_agreement",
    items=items,
    grade=not_graded,
    ask=compare_models,
    licence="yours",
)
