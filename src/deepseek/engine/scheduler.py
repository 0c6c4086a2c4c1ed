"""Continuous batching: which requests run in the next pass, on which pages, with how many tokens.

One thread at a time may call it (`loop.py`). The slow reference is one request after the other
through `Runner.read` and `step`: a token's numbers are the same in any company.
"""

import time
from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from deepseek.core.errors import ConfigError, DiskError, RequestError
from deepseek.core.llm import Delta
from deepseek.core.log import LOGGER
from deepseek.engine.draft_model import DraftModel
from deepseek.engine.part import Part, parts_of
from deepseek.engine.prefix_tier import PrefixTier
from deepseek.engine.radix import RadixTree
from deepseek.engine.request import Request
from deepseek.engine.room import ENDLESS, Room
from deepseek.engine.runner import attended, first_asking, places_of_ends
from deepseek.engine.sharing import LEAST, chunk_end, shareable_length
from deepseek.engine.speculator import Speculator
from deepseek.model.decoder import NativeDecoder
from deepseek.model.pages import Missing
from deepseek.ops.hierarchical import PAGE, Hierarchy

SLACK = 256
"""Tokens before the window of a sequence with cold pages that it keeps as they are: it is never cut
back by more than what ran ahead."""
HEAD_START = 256
"""Passes by which each step of priority puts a request before those that came earlier. It is not
for ever: what waits long enough gets its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may be in use at once."""

    n_pages: int
    """Pages of keys and values, of running requests and of the tree together."""
    n_kept: int
    """Of these, pages that the tree keeps for prompts to come."""
    n_cold: int = ENDLESS
    """Pages in 8 or 4 bits, where there are any."""
    n_kept_cold: int = ENDLESS
    """Of these, pages that the tree keeps."""
    n_running: int = 32
    """Requests in one pass."""
    n_tokens: int = 1_024
    """Prompt tokens of a pass in which nobody waits for the next token of an answer."""
    n_tokens_beside: int = 256
    """Prompt tokens beside answers: a pass with more would make them falter."""

    def __post_init__(self) -> None:
        least_of = {"n_pages": 1, "n_running": 1, "n_tokens": LEAST, "n_tokens_beside": LEAST}
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}", f"use {least} or more")

    @property
    def n_rows(self) -> int:
        """Most tokens of a request in a pass."""
        return max(self.n_tokens, self.n_tokens_beside)


@dataclass(slots=True)
class Counts:
    """What the scheduler did so far."""

    passes: int = 0
    preempted: int = 0
    reused_tokens: int = 0
    read_tokens: int = 0


class Scheduler:
    """Requests that wait and run, and the pages that they share."""

    def __init__(
        self,
        decoder: NativeDecoder,
        limits: Limits,
        hierarchy: Hierarchy | None = None,
        reclaim: Callable[[], bool] | None = None,
        *,
        speculates: bool = True,
        draft_model: DraftModel | None = None,
    ) -> None:
        """Serve a decoder.

        Args:
            decoder: Nobody else may use it during a call.
            limits: What may be in use at once.
            hierarchy: What its tokens see; None: everything.
            reclaim: Asked to give back what else holds pages; False: there is nothing.
            speculates: Whether next tokens are guessed.
            draft_model: Guesses where the text does not.
        """
        self.limits, self.counts = limits, Counts()
        self.tree = RadixTree(
            decoder.pool,
            decoder.memory,
            limits.n_kept,
            decoder.cold,
            decoder.tier,
            limits.n_kept_cold,
        )
        self.waiting: list[Request] = []
        """By order."""
        self.running: list[Request] = []
        """By order."""
        self.prefixes: PrefixTier | None = None
        """Pages of earlier prompts on a disk."""
        self._decoder, self._hierarchy = decoder, hierarchy
        self._room = Room(decoder, self.tree, limits.n_pages, reclaim, limits.n_cold)
        self.speculator = Speculator(draft_model) if speculates else None
        self._n_added = 0

    def check(self, prompt_ids: Sequence[int], max_tokens: int) -> None:
        """Refuse what could never run; any thread may ask.

        Raises:
            RequestError: It is malformed, or alone would take more pages than there may be.
        """
        if not prompt_ids or not all(0 <= t < self._decoder.vocab_size for t in prompt_ids):
            raise RequestError(
                "a prompt has no tokens, or some that the model does not know",
                "encode it with the model's own tokenizer",
            )
        # The answer's last token is not run.
        n_pages = -(-(len(prompt_ids) + max_tokens - 1) // PAGE)
        tier, limits = self._decoder.tier, self.limits
        needs = [(n_pages, limits.n_pages, "pages")]
        if tier is not None:
            n_exact = replace(tier, slack=SLACK).at_once(n_pages, limits.n_rows)
            in_codes = f"pages in int{tier.bits}"
            needs = [(n_exact, limits.n_pages, "pages"), (n_pages, limits.n_cold, in_codes)]
        for needed, there, kind in needs:
            if needed > there:
                raise RequestError(
                    f"prompt ({len(prompt_ids):,} tokens) and answer (up to {max_tokens:,}) need "
                    f"{needed:,} {kind} of memory, and there are {there:,}",
                    "shorten the prompt, lower max_tokens, or give a larger memory budget",
                )

    def add(self, request: Request) -> None:
        """Let a request wait for its turn."""
        self._n_added += 1
        turn = self.counts.passes - request.priority * HEAD_START
        request.order = (turn, self._n_added)
        insort(self.waiting, request, key=_order)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waiting and not self.running

    def step(self) -> None:
        """One pass of the model: the next token of every answer, and a part of what is to be read.

        What fails in one request's answer ends that request only.
        """
        self.drop_cancelled()
        self._admit()
        self._guess()
        parts = self._plan()
        if parts:
            for request, logits in self._run(parts).items():
                self._choose(request, *logits)

    def drop_cancelled(self) -> None:
        """End the requests that nobody wants any more; their pages are free at once."""
        for request in [*self.waiting, *self.running]:
            if request.cancelled:
                request.answer.finish_reason = "cancelled"
                self._finish(request)

    def fail(self, error: Exception) -> None:
        """End all requests."""
        for request in [*self.waiting, *self.running]:
            self._end(request, error)

    def give_way(self, *, is_cold: bool = False) -> bool:
        """Give pages back to someone who cannot wait; False: there are none left to give.

        Args:
            is_cold: Whether pages in 8 or 4 bits are wanted, or others.
        """
        if self.tree.evict() if is_cold else self.tree.give_up():
            return True
        if self.running:
            self._preempt(self.running[-1])
            return True
        return self.tree.evict(used_too=True)

    def make_room(self) -> bool:
        """Give pages back, of whomever; False: none are left."""
        return self.give_way() or self._room.reclaim()

    # Who runs.

    def _admit(self) -> None:
        """Let in who is next, as long as there is room; nobody overtakes one who finds none."""
        for request in list(self.waiting):
            if self._is_being_read(request) or self._comes_back(request):
                continue
            if not self._enter(request):
                break

    def _is_being_read(self, request: Request) -> bool:
        """Whether another one is just reading pages that this one can take when they are done."""
        most = self._shareable(request)
        for other in self.running:
            is_alike = other.adapter == request.adapter
            if is_alike and other.is_reading and other.sequence is not None:
                n = _common_pages(request.tokens, other.prompt_ids) * PAGE
                if min(n, most, self._shareable(other)) > other.sequence.length:
                    return True
        return False

    def _comes_back(self, request: Request) -> bool:
        """Fetch pages that a request begins with from the disk; whether more are to come."""
        if self.prefixes is None or len(self.running) >= self.limits.n_running:
            return False
        start, most = time.perf_counter(), self._shareable(request)
        more = self.prefixes.fetch(
            request.tokens, most, adapter=request.adapter, is_beside=bool(self.running)
        )
        request.fetch_seconds += time.perf_counter() - start
        return more

    def _enter(self, request: Request) -> bool:
        """Let one in; lower priorities make way if they must."""
        while not self._start(request):
            less = [r for r in self.running if r.priority < request.priority]
            if not less:
                return False
            self._preempt(less[-1])
        return True

    def _start(self, request: Request) -> bool:
        """Give a waiting request the pages that are known; False: there is no room for the rest."""
        if len(self.running) >= self.limits.n_running:
            return False
        in_pages = self._hierarchy is not None
        most, adapter = self._shareable(request), request.adapter
        match = self.tree.match(request.tokens, most, in_pages=in_pages, adapter=adapter)
        sequence = self._decoder.sequence(SLACK, self.limits.n_rows)
        sequence.adapter = adapter
        sequence.begin(match.length, match.keys, match.memory, match.cold)
        sequence.asks_from = first_asking(len(request.prompt_ids))
        request.sequence = sequence
        # All that they must still read, and a page more for each answer.
        parts = [Part(r, r.n_pending + PAGE) for r in (*self.running, request)]
        if self.running and not self._room.find([part.missing for part in parts]):
            sequence.release()
            request.sequence = None
            return False
        self.waiting.remove(request)
        insort(self.running, request, key=_order)
        if not request.n_preempted:
            request.n_reused, request.miss = match.length, match.miss
            request.started = time.perf_counter() - request.fetch_seconds
            if self.speculator is not None:
                self.speculator.begin(request)
            self.counts.reused_tokens += match.length
            LOGGER.debug("reused %d tokens, then: %s", match.length, match.miss or "all")
        return True

    def _shareable(self, request: Request) -> int:
        """Leading tokens that may come from the tree; the last one must run for its logits."""
        most = len(request.tokens) - 1
        if self._hierarchy is None:
            return most
        return min(most, shareable_length(len(request.prompt_ids), self._hierarchy))

    def _preempt(self, request: Request) -> None:
        """Take a request's pages away; it waits, and is read again later."""
        request.drop_ahead()
        self._leave(request, keep=True)
        request.n_preempted += 1
        self.counts.preempted += 1
        insort(self.waiting, request, key=_order)

    def _leave(self, request: Request, *, keep: bool = False) -> None:
        """Take a request out; the tree may keep its pages."""
        (self.running if request in self.running else self.waiting).remove(request)
        if self.speculator is not None:
            self.speculator.leave(request)
        request.drop_branches()
        if request.sequence is not None:
            if keep:
                self._keep(request, ends=True)
            request.sequence.release()
            request.sequence = None

    # What they run.

    def _guess(self) -> None:
        """Let guesses run with the next tokens of answers, where that gains."""
        answering = [r for r in self.running if r.is_answering]
        if self.speculator is None or not answering:
            return
        n_rows = sum(r.n_pending for r in answering)
        n_pending = sum(r.n_pending for r in self.running) - n_rows
        self.speculator.draft(answering, n_rows, min(n_pending, self.limits.n_tokens_beside))

    def _plan(self) -> list[Part]:
        """New tokens of each running request; those that find no pages for them make way."""
        parts: list[Part] = []
        missing: list[Missing] = []
        for request, size in self._sizes().items():
            while request.sequence is not None:
                mine = parts_of(request, size)
                needed = [*missing, *(part.missing for part in mine)]
                if self._room.find(needed):
                    parts, missing = [*parts, *mine], needed
                    break
                if request.n_guessed:  # nobody makes way for guesses
                    request.drop_guesses()
                    size = request.n_pending
                else:
                    self._make_way(self.running[-1])
        return parts

    def _make_way(self, last: Request) -> None:
        if len(self.running) > 1:
            self._preempt(last)
        elif len(self.tree):
            # Alone it fits, but not beside a copy of a page that it began with.
            self._preempt(last)
            self.tree.clear()
        else:
            self._end(last, RequestError("all pages of memory are in use", "ask again later"))

    def _sizes(self) -> dict[Request, int]:
        """New tokens of running requests, by order: of each answer one, with those that must
        follow, and of prompts a chunk.

        Prompts share the room evenly, what short ones leave goes to long ones, and the first one
        always gets on.
        """
        sizes = {r: r.n_pending if r.is_answering else 0 for r in self.running}
        room = self.limits.n_tokens_beside if any(sizes.values()) else self.limits.n_tokens
        reading = [r for r in self.running if not sizes[r]]
        for n_before, request in enumerate(reading[:1] + sorted(reading[1:], key=_n_pending)):
            if room >= LEAST:
                most = max(LEAST, room // (len(reading) - n_before))
                sizes[request] = self._chunk(request, most)
                room -= sizes[request]
        return {request: size for request, size in sizes.items() if size}

    def _chunk(self, request: Request, most: int) -> int:
        assert request.sequence is not None
        start, n_prompt = request.sequence.length, len(request.prompt_ids)
        return chunk_end(start, len(request.tokens), most, n_prompt, self._hierarchy) - start

    def _run(self, parts: Sequence[Part]) -> dict[Request, list[Tensor]]:
        """Run new tokens; those requests of which all tokens were run, with the logits that are
        needed of them and of each branch."""
        for part in parts:
            part.report()
        tokens = [part.tokens for part in parts]
        reading = [part.request for part in parts if not part.request.is_answering]
        start = time.perf_counter()
        try:
            hidden = self._decoder.run(tokens, [part.sequence for part in parts])
            sizes = [part.n_choosing for part in parts]
            ends = zip(places_of_ends(tokens), sizes, strict=True)
            rows = [row for end, size in ends for row in range(end + 1 - size, end + 1)]
            logits = self._decoder.logits(hidden[rows]) if rows else hidden[:0]
        except Exception as error:
            for request in dict.fromkeys(part.request for part in parts):
                self._end(request, error)
            if isinstance(error, DiskError):  # what cannot be read back is read anew
                self.tree.clear()
            return {}
        self.counts.passes += 1
        self.counts.read_tokens += len(hidden)
        if not reading and self.speculator is not None:
            n_branches = sum(part.branch is not None for part in parts)
            self.speculator.note(len(hidden), time.perf_counter() - start, n_branches)
        for request in reading:
            self._keep(request)
        found: dict[Request, list[Tensor]] = {}
        for part, some in zip(parts, torch.split(logits, sizes), strict=True):
            part.request.n_drafted += part.n_guessed
            if len(some):
                found.setdefault(part.request, []).append(some)
        return found

    # What comes of it.

    def _choose(
        self, request: Request, logits: Float[Tensor, "A V"], *others: Float[Tensor, "_ V"]
    ) -> None:
        """Choose a request's next tokens: as long as those that ran ahead are the chosen ones, the
        next row counts. An error in that is the request's own.

        Args:
            request: Whose.
            logits: Behind its last certain token, and those that ran ahead.
            others: Behind the tokens of each branch.
        """
        request.answering = request.answering or time.perf_counter()
        answer, n_right = request.answer, 0
        try:
            while True:
                text = answer.add(logits[n_right])
                if answer.finish_reason is not None:
                    break
                if text or answer.thought:
                    request.pieces.put(Delta(text, reasoning=answer.thought))
                chosen = answer.token_ids[-1]
                if n_right == request.n_forced and request.branches:
                    logits = _of_branch(request, chosen, logits, others)
                if n_right == request.n_ahead or request.ahead[n_right] != chosen:
                    break
                n_right += 1
            if self.speculator is not None:
                self.speculator.learn(request, n_right)
            request.go_back(n_right)
            if answer.finish_reason is None:
                request.tokens.append(answer.token_ids[-1])
                request.run_ahead(answer.forced())
        except Exception as error:
            self._end(request, error)
            return
        if answer.finish_reason is not None:
            self._finish(request, text)

    def _finish(self, request: Request, text: str = "") -> None:
        """Give the end of an answer; the tree keeps the pages."""
        n_tokens = 0 if request.sequence is None else request.sequence.length
        prefill_seconds, decode_seconds = request.seconds()
        try:
            text += request.answer.flush()
            completion = request.answer.completion(
                n_reused_tokens=request.n_reused,
                prefill_seconds=prefill_seconds,
                decode_seconds=decode_seconds,
                attended=attended(n_tokens, self._hierarchy, self._decoder.tier_bytes),
                n_drafted=request.n_drafted,
                n_accepted=request.n_accepted,
            )
        except Exception as error:
            self._end(request, error)
            return
        if self.speculator is not None:
            self.speculator.remember(request)
        self._leave(request, keep=True)
        request.end(Delta(text, completion, request.answer.thought))

    def _end(self, request: Request, error: Exception) -> None:
        """Give an error in place of an answer; its pages hold nothing to rely on."""
        self._leave(request)
        request.end(error)

    def _keep(self, request: Request, *, ends: bool = False) -> None:
        """Leave whole pages in the tree; in the end, the begun one as well."""
        assert request.sequence is not None
        length = request.sequence.length
        if self._hierarchy is not None:
            length = min(length, shareable_length(len(request.prompt_ids), self._hierarchy))
        self.tree.insert(request.tokens[:length], request.sequence, ends=ends)


def _of_branch(request: Request, chosen: int, logits: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Take the branch that begins with the chosen token, if there is one; the rows that count."""
    for branch, behind in zip(list(request.branches), others, strict=True):
        if branch.tokens[0] == chosen:
            logits = torch.cat([logits[: request.n_forced + 1], behind])
            request.take_branch(branch)
    return logits


def _order(request: Request) -> tuple[int, int]:
    return request.order


def _n_pending(request: Request) -> int:
    return request.n_pending


def _common_pages(a: Sequence[int], b: Sequence[int]) -> int:
    """Whole pages at the beginning of two prompts that are equal."""
    n_pages = min(len(a), len(b)) // PAGE
    for page in range(n_pages):
        part = slice(page * PAGE, (page + 1) * PAGE)
        if a[part] != b[part]:
            return page
    return n_pages
