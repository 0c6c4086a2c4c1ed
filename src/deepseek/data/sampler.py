"""Windows of several sources in a stage's mix. Its whole state is a few numbers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from deepseek.data.mixture import DynamicSettings, Mixture, ProgressWeights, Weight
from deepseek.data.packed import Window, cut_window
from deepseek.data.stream import DocumentStream
from deepseek.data.token_file import TokenFile


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMix:
    """What a stage draws."""

    weights: Mapping[str, Weight]
    n_windows: int
    """In all of the stage."""
    pacing: float = 0.0
    """See `DocumentStream.pace`."""


class Sampler:
    """Draws windows, one after another, the same in every run."""

    def __init__(
        self,
        sources: Mapping[str, TokenFile],
        window: int,
        seed: int = 0,
        dynamic: DynamicSettings | None = None,
        *,
        whole: bool = False,
        unbroken: Collection[str] = (),
    ) -> None:
        """Open the streams.

        Args:
            sources: Documents by name.
            window: Tokens of a window.
            seed: Of the documents' order.
            dynamic: How weights follow progress; None: they do not.
            whole: A window is one document and no more; longer ones go on in another.
            unbroken: Sources whose documents are not cut where a window ends.

        Raises:
            ConfigError: A source is empty.
        """
        self.names = tuple(sources)
        self._window, self._whole, self._unbroken = window, whole, frozenset(unbroken)
        self._streams = {n: DocumentStream(tokens, n, seed) for n, tokens in sources.items()}
        self._dynamic = ProgressWeights(self.names, dynamic) if dynamic else None
        self._mixture: Mixture | None = None
        self._stage: StageMix | None = None
        self._drawn = dict.fromkeys(self.names, 0)

    def begin(self, stage: StageMix) -> None:
        """Start a stage: its mix, and its documents in order.

        Raises:
            ConfigError: The weights make no mix.
        """
        self._stage = stage
        self._mixture = Mixture(self.names, stage.weights, self._dynamic)
        self._drawn = dict.fromkeys(self.names, 0)
        for name, share in self._mixture.shares(0.5).items():
            portion = round(share * stage.n_windows * self._window) if stage.pacing else 0
            self._streams[name].pace(stage.pacing, portion)

    @property
    def n_drawn(self) -> int:
        """Windows of this stage so far."""
        return sum(self._drawn.values())

    @property
    def progress(self) -> float:
        """Share of the stage's windows that were drawn."""
        assert self._stage is not None
        return min(1.0, self.n_drawn / max(1, self._stage.n_windows))

    def draw(self) -> Window:
        """The next window."""
        assert self._mixture is not None, "begin a stage first"
        name = self._mixture.choose(self.progress)
        self._drawn[name] += 1
        return self._cut(name)

    def _cut(self, name: str) -> Window:
        """The next window of a source."""
        stream, number = self._streams[name], self.names.index(name)
        if self._whole:
            return Window(number, (stream.take(self._window),))
        return cut_window(stream, number, self._window, unbroken=name in self._unbroken)

    def measures(self) -> dict[str, float]:
        """What else there is to say of the step that was drawn last, for the metrics."""
        return {}

    def observe(self, losses: Mapping[str, float]) -> None:
        """Tell the mean loss of each source in the last step.

        What is read again is learned by heart, which looks like progress: such sources rest.
        """
        if self._dynamic is None:
            return
        fresh = {n: loss for n, loss in losses.items() if not self._streams[n].position.epoch}
        for name in losses.keys() - fresh.keys():
            self._dynamic.rest(name)
        self._dynamic.observe(fresh)

    def shares(self) -> dict[str, float]:
        """The mix that is wanted now."""
        assert self._mixture is not None, "begin a stage first"
        return self._mixture.shares(self.progress)

    def realised(self) -> dict[str, float]:
        """The mix of this stage so far."""
        total = max(1, self.n_drawn)
        return {name: count / total for name, count in self._drawn.items() if count}

    def epochs(self) -> dict[str, float]:
        """How often each source was read, in whole and started epochs."""
        return {
            name: stream.position.epoch + stream.position.first / stream.tokens.n_documents
            for name, stream in self._streams.items()
        }

    def state(self) -> dict[str, Any]:
        """Everything that the next windows depend on."""
        return {
            "streams": {name: stream.state() for name, stream in self._streams.items()},
            "drawn": dict(self._drawn),
            "credits": dict(self._mixture.credits) if self._mixture else {},
            "dynamic": self._dynamic.state() if self._dynamic else None,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, within the stage that was begun."""
        assert self._mixture is not None, "begin the stage first"
        for name, stream in self._streams.items():
            stream.resume(state["streams"][name])
        self._drawn = {name: int(n) for name, n in state["drawn"].items()}
        self._mixture.credits = dict(state["credits"])
        if self._dynamic is not None:
            self._dynamic.resume(state["dynamic"])
