"""Between the tree of pages in memory and a folder of them on a disk.

What comes into the tree is written soon after, by a thread of its own; what a prompt begins with
and the folder has is put back into the tree instead of being computed. A page on the disk is to the
last bit what the model would compute again.
"""

import atexit
import hashlib
import json
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from importlib import metadata
from itertools import islice

import torch
from jaxtyping import UInt8
from torch import Tensor

from deepseek.core.errors import ContextError
from deepseek.core.log import LOGGER
from deepseek.engine.prefix_folder import PrefixFolder, PrefixSettings
from deepseek.engine.radix import Node, RadixTree, Reason
from deepseek.engine.room import Room
from deepseek.model.decoder import NativeDecoder
from deepseek.model.pages import PagedSequence
from deepseek.model.prefix_page import VERSION
from deepseek.ops import native
from deepseek.ops.hierarchical import GROUP, PAGE, Hierarchy
from deepseek.ops.native_model import NO_ADAPTER

COPIED_BYTES = 40 << 20
"""Memory that copies take, of which:"""
BATCH_BYTES = 8 << 20
"""Copied in one turn: passes wait for it."""
QUEUE_BYTES = 32 << 20
"""Of copies that wait to be written; beyond, pages that leave the tree are lost."""
FETCHED = 64
"""Pages that come back in one turn."""
FETCHED_BESIDE = 8
"""The same beside answers, which should not falter."""
REST_SECONDS = 300.0
"""How long nothing is written after the disk was full or failed."""
LAST_SECONDS = 10.0
"""How long the end of a program waits until all is written."""


class PrefixTier:
    """Pages of one model's tree, on a disk. Methods are called in a turn unless they say not to."""

    def __init__(
        self,
        folder: PrefixFolder,
        decoder: NativeDecoder,
        tree: RadixTree,
        room: Room,
        turn: AbstractContextManager[None],
        tenant: str = "",
    ) -> None:
        """Stand below a tree.

        Args:
            folder: Has the pages.
            decoder: Has the pools.
            tree: Tells what comes and goes.
            room: Knows how many pages are free.
            turn: Held while pools and the tree are used.
            tenant: Whose prompts they are: different ones share nothing on the disk.
        """
        self.folder = folder
        self.n_lost = 0
        """Pages that left the tree and could not be kept."""
        self._decoder, self._tree, self._room, self._turn = decoder, tree, room, turn
        self._unwritten: dict[bytes, Node] = {}
        """Pages of the tree; used in turns only."""
        self._copies: dict[bytes, UInt8[Tensor, " N"]] = {}
        """What waits to be written, and is copied already."""
        self._guard = threading.Condition()
        self._thread: threading.Thread | None = None
        self._rests_until = 0.0
        self._has_warned = False
        tree.stand_on(self, tenant)
        _TIERS.add(self)

    # What the tree tells.

    def came(self, node: Node) -> None:
        """A page is in the tree now."""
        digest = node.digest
        if self._rests or digest in self._copies or self.folder.has(digest):
            return
        self._unwritten[digest] = node
        self._start()

    def goes(self, node: Node, *, is_evicted: bool) -> None:
        """A page leaves the tree: if it is to be kept, it is copied now."""
        if self._unwritten.pop(node.digest, None) is None or not is_evicted:
            return
        if (len(self._copies) + 1) * self.folder.size > QUEUE_BYTES:
            self.n_lost += 1
            return
        with self._guard:
            self._copies[node.digest] = self._content(node)
        self._start()

    def why(self, digest: bytes) -> Reason | None:
        """Why a page did not come back, as far as that is known."""
        if digest in self._copies or self.folder.has(digest):
            return "no room in memory"
        return self.folder.why(digest)

    # Back into memory.

    @torch.inference_mode()
    def fetch(
        self,
        token_ids: Sequence[int],
        most: int,
        *,
        adapter: int = NO_ADAPTER,
        is_beside: bool = False,
    ) -> bool:
        """Put pages of a prompt's beginning back into the tree, as many as a turn may take.

        Args:
            token_ids: Of the prompt.
            most: Leading tokens that are of use.
            adapter: The number of the one that they must have been read with.
            is_beside: Whether answers wait meanwhile.

        Returns:
            Whether there are more.
        """
        path = self._tree.path(token_ids, most, adapter)
        limit = FETCHED_BESIDE if is_beside else FETCHED
        wanted = list[bytes]()
        for digest in islice(self._tree.following(token_ids, most, path, adapter), limit + 1):
            if digest not in self._copies and not self.folder.has(digest):
                break
            wanted.append(digest)
        self.folder.renew([*(node.digest for node in path), *wanted])
        if not wanted:
            return False
        start = time.perf_counter()
        self.folder.ask_for(wanted)
        n_pages = self._put_back(token_ids, adapter, len(path), wanted[:limit])
        LOGGER.debug("%d pages from disk in %.3f s", n_pages, time.perf_counter() - start)
        return n_pages == limit < len(wanted)

    def _put_back(
        self, token_ids: Sequence[int], adapter: int, n_there: int, wanted: Sequence[bytes]
    ) -> int:
        """Pages that came back behind those that are there; fewer where one cannot be had."""
        match = self._tree.match(token_ids, n_there * PAGE, in_pages=True, adapter=adapter)
        # A sequence holds what is there: nothing of it is given up for what follows.
        sequence = self._decoder.sequence()
        sequence.adapter = adapter
        sequence.begin(match.length, match.keys, match.memory)
        try:
            for digest in wanted:
                if not (self._has_room(sequence) and self._append(sequence, digest)):
                    break
            self._tree.insert(token_ids[: sequence.length], sequence)
            return sequence.length // PAGE - n_there
        finally:
            sequence.release()

    def _has_room(self, sequence: PagedSequence) -> bool:
        """Whether there is room for one more page, if what is kept of others makes way."""
        keys, nodes, _ = sequence.missing(PAGE)
        while self._room.n_free < keys or self._room.n_free_nodes < nodes:
            if not self._tree.evict():
                return False
        return True

    def _append(self, sequence: PagedSequence, digest: bytes) -> bool:
        """Let a sequence go on with a page; False: it is not there, or damaged."""
        content = self._copies.get(digest)
        if content is None:
            content = self.folder.read(digest)
        if content is None:
            return False
        pool, memory, length = self._decoder.pool, self._decoder.memory, sequence.length
        sequence.extend(PAGE)
        keys, *nodes = sequence.tables
        try:
            pool.write(keys.pages[-1], content[: pool.page_bytes])
            if memory is not None:
                place = length // PAGE % GROUP
                memory.write_nodes(nodes[0].pages[-1], place, content[pool.page_bytes :])
        except ContextError as error:
            sequence.truncate(length)
            self.folder.drop_damaged(digest, error.message)
            return False
        sequence.advance(PAGE)
        return True

    # Onto the disk.

    def save(self, seconds: float = LAST_SECONDS) -> bool:
        """Write all that was never written; not to be called in a turn.

        Args:
            seconds: To wait at most.

        Returns:
            Whether nothing is left.
        """
        with self._turn:
            for node in self._tree.nodes():
                # What was dropped made way for what is used more.
                if not self.folder.was_dropped(node.digest):
                    self.came(node)
        until = time.monotonic() + seconds
        with self._guard:
            while self._thread is not None:
                if not self._guard.wait(until - time.monotonic()):
                    return False
        return not self._unwritten and not self._copies

    @property
    def _rests(self) -> bool:
        return time.monotonic() < self._rests_until

    def _content(self, node: Node) -> UInt8[Tensor, " N"]:
        """A copy of what a page holds."""
        keys = self._decoder.pool.read(node.page)
        if self._decoder.memory is None:
            return keys
        nodes = self._decoder.memory.read_nodes(node.memory, node.place % GROUP)
        return torch.cat((keys, nodes))

    def _start(self) -> None:
        """Make sure that somebody writes."""
        with self._guard:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="prefixes", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        """Write until there is nothing left."""
        is_done = False
        try:
            while not is_done:
                path = self._copy()
                self._write()
                # The first pages of a prompt shall be the last to be dropped.
                self.folder.renew(path)
                is_done = self._ends()
        finally:
            if not is_done:
                self._end()

    def _ends(self) -> bool:
        """Whether there was nothing left to write."""
        if not self._copies and not self._unwritten:
            self.folder.settle()
        with self._guard:
            if self._copies or self._unwritten:
                return False
            self._end()
            return True

    def _end(self) -> None:
        with self._guard:
            self._thread = None
            self._guard.notify_all()

    @torch.inference_mode()
    def _copy(self) -> list[bytes]:
        """Copy some pages of the tree in a turn; digests of the beginning they belong to."""
        n_pages = max(1, BATCH_BYTES // self.folder.size)
        with self._turn:
            nodes = list(islice(self._unwritten.values(), n_pages))
            for node in nodes:
                del self._unwritten[node.digest]
                self._copies[node.digest] = self._content(node)
            path, last = list[bytes](), nodes[-1] if nodes else None
            while last is not None and last.place >= 0:
                path.append(last.digest)
                last = last.parent
        return path[::-1]

    def _write(self) -> None:
        """Write what is copied; if the disk does not take it, forget it and rest."""
        for digest in list(self._copies):
            try:
                if not self.folder.has(digest):
                    self.folder.write(digest, self._copies[digest])
            except TimeoutError:  # another process is at it; this page is computed again some day
                self.n_lost += 1
            except OSError as error:
                self._rest(error)
                return
            del self._copies[digest]

    def _rest(self, error: OSError) -> None:
        self._rests_until = time.monotonic() + REST_SECONDS
        self._copies.clear()
        with self._turn:
            self._unwritten.clear()
        if not self._has_warned:
            self._has_warned = True
            LOGGER.warning("the prefix cache is not written any more: %s", error)


def identity_of(fingerprint: str, decoder: NativeDecoder, hierarchy: Hierarchy | None) -> bytes:
    """A digest of all that decides the numbers of a prompt's pages but its tokens and adapter,
    which are in their keys.

    Args:
        fingerprint: Of the weights.
        decoder: Computes with them.
        hierarchy: What tokens see; None: everything.
    """
    settings = {
        "format": VERSION,
        "program": [_release(), native.build(), native.level()],
        "weights": fingerprint,
        "attention": None if hierarchy is None else asdict(hierarchy),
        "pages": [(pool.layout, pool.page_bytes) for pool in decoder.pools],
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).digest()


def _release() -> str:
    try:
        return metadata.version("deepseek")
    except metadata.PackageNotFoundError:  # it runs without having been installed
        return ""


def open_folder(
    settings: PrefixSettings, fingerprint: str, decoder: NativeDecoder, hierarchy: Hierarchy | None
) -> PrefixFolder:
    """The folder for a model's pages.

    Raises:
        ConfigError: It cannot be used.
    """
    n_bytes = decoder.pool.page_bytes
    if decoder.memory is not None:
        n_bytes += decoder.memory.node_bytes
    identity = identity_of(fingerprint, decoder, hierarchy)
    return PrefixFolder(settings.path, identity, n_bytes, settings.most_bytes)


_TIERS: "weakref.WeakSet[PrefixTier]" = weakref.WeakSet()


@atexit.register
def _save_all() -> None:
    """Daemon threads end with the program: what they have not written is written now."""
    for tier in list(_TIERS):
        tier.save()
