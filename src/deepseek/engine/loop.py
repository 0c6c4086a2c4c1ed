"""The thread that runs the scheduler, and how others take turns with it."""

import atexit
import threading
import weakref
from collections import deque

import torch

from deepseek.core.errors import RequestError
from deepseek.engine.draft_model import DraftModel
from deepseek.engine.native_runner import NativeRunner
from deepseek.engine.prefix_folder import PrefixSettings
from deepseek.engine.prefix_tier import PrefixTier, open_folder
from deepseek.engine.request import AnswerStream, Request
from deepseek.engine.room import Room
from deepseek.engine.scheduler import Limits, Scheduler
from deepseek.model.budget import ROWS
from deepseek.ops.hierarchical import PAGE

LAST_PASS = 10.0
"""Seconds that the end of a program waits for a pass."""

USED_BYTES, KEPT_BYTES = 4 << 30, 1 << 30
"""Without a memory budget, for all pages and for those of the tree, if the context window does not
need more."""
KEPT_EXACT_BYTES = 256 << 20
"""For pages that the tree keeps as they are beside their cold form."""


class FairLock:
    """A lock that is had in the order of asking: a loop that asks again at once waits, too."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held = False
        self._queue: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._guard:
            if not self._held:
                self._held = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._queue.append(mine)
        try:
            mine.acquire()
        except BaseException:  # Ctrl-C: whoever hands the lock over must not wait for us
            with self._guard:
                if mine in self._queue:
                    self._queue.remove(mine)
                    raise
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with self._guard:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._held = False


class Loop:
    """Runs a scheduler in a thread of its own as long as there is something to do."""

    def __init__(self, scheduler: Scheduler, turn: FairLock) -> None:
        """Make it; the thread starts with the first request, and again after a rest.

        Args:
            scheduler: Used by nobody else, unless in a turn.
            turn: Held during each pass: in between, others may use the decoder.
        """
        self.scheduler = scheduler
        self._turn = turn
        self._guard = threading.Lock()
        self._arrived: list[Request] = []
        self._thread: threading.Thread | None = None
        self._is_closed = False
        _LOOPS.add(self)

    def submit(self, request: Request) -> AnswerStream:
        """Let a request be answered; any thread may call.

        Raises:
            RequestError: It can never run.
        """
        if self._is_closed:
            raise RequestError("the engine is closed", "load the model again")
        self.scheduler.check(request.prompt_ids, request.max_tokens)
        with self._guard:
            self._arrived.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
                self._thread.start()
        return AnswerStream(request, self._cancel)

    def forget(self) -> None:
        """Empty the tree, and end what was cancelled; to be called in a turn."""
        self._take_in()
        self.scheduler.drop_cancelled()
        self.scheduler.tree.clear()

    def close(self) -> None:
        """Stop after the pass that runs; requests that are not answered then never are."""
        self._is_closed = True
        thread = self._thread
        if thread is not None:
            thread.join(LAST_PASS)
        if self.scheduler.prefixes is not None:
            self.scheduler.prefixes.save()

    def _cancel(self, request: Request) -> None:
        # As long as the request is there the thread runs, and looks before each pass.
        request.cancelled = True

    def _take_in(self) -> None:
        with self._guard:
            arrived, self._arrived = self._arrived, []
        for request in arrived:
            self.scheduler.add(request)

    @torch.inference_mode()
    def _run(self) -> None:
        while not self._is_closed:
            with self._turn:
                try:
                    self._take_in()
                    self.scheduler.step()
                except Exception as error:  # a bug: nobody shall wait for ever
                    self.scheduler.fail(error)
            with self._guard:
                if not self._arrived and self.scheduler.is_idle:
                    self._thread = None
                    return


def loop_of(
    runner: NativeRunner,
    context_window: int,
    turn: FairLock,
    *,
    speculates: bool = True,
    draft_model: DraftModel | None = None,
) -> Loop:
    """A loop over a runner's decoder. Where pages are short, the runner's own sequence is lost."""

    def reclaim() -> bool:
        held = bool(runner.tokens)
        runner.rewind(0)
        return held

    scheduler = Scheduler(
        runner.decoder,
        limits_of(runner, context_window),
        runner.hierarchy,
        reclaim,
        speculates=speculates,
        draft_model=draft_model,
    )
    runner.tree = scheduler.tree
    return Loop(scheduler, turn)


def keep_prefixes(
    runner: NativeRunner, loop: Loop, turn: FairLock, settings: PrefixSettings, fingerprint: str
) -> None:
    """Let a runner and its loop have pages of earlier prompts on a disk.

    Raises:
        ConfigError: The folder cannot be used.
    """
    decoder, scheduler = runner.decoder, loop.scheduler
    folder = open_folder(settings, fingerprint, decoder, runner.hierarchy)
    room = Room(decoder, scheduler.tree, scheduler.limits.n_pages)
    tier = PrefixTier(folder, decoder, scheduler.tree, room, turn, settings.tenant)
    scheduler.prefixes = runner.prefixes = tier


def limits_of(runner: NativeRunner, context_window: int) -> Limits:
    """A memory budget's pages; without one, what the context window takes or a fixed size."""
    pool, cold, n_window = runner.decoder.pool, runner.decoder.cold, -(-context_window // PAGE)
    if cold is None or runner.tier is None:
        if pool.most is not None:
            return Limits(n_pages=pool.most, n_kept=pool.most)
        return Limits(
            n_pages=max(n_window, USED_BYTES // pool.page_bytes),
            n_kept=max(n_window, KEPT_BYTES // pool.page_bytes),
        )
    n_least = runner.tier.at_once(n_window, ROWS)
    return Limits(
        n_pages=pool.most or max(n_least, USED_BYTES // pool.page_bytes),
        n_kept=pool.most or max(n_least, KEPT_EXACT_BYTES // pool.page_bytes),
        n_cold=cold.most or max(n_window, USED_BYTES // cold.page_bytes),
        n_kept_cold=cold.most or max(n_window, KEPT_BYTES // cold.page_bytes),
    )


_LOOPS: "weakref.WeakSet[Loop]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """A thread in the middle of a pass must not outlive what it computes with."""
    for loop in list(_LOOPS):
        loop.close()
