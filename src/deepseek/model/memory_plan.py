"""What shares a memory budget: a table of who takes how many bytes."""

from collections.abc import Iterable
from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Share:
    """What one thing takes."""

    name: str
    n_bytes: int
    detail: str = ""
    """How it comes about, for people."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """All that is counted within a memory budget, the largest number that each will take."""

    n_bytes: int
    """The budget."""
    shares: tuple[Share, ...] = ()

    @property
    def total(self) -> int:
        """Bytes of all shares."""
        return sum(share.n_bytes for share in self.shares)

    @property
    def left(self) -> int:
        """Bytes of the budget that are nobody's."""
        return self.n_bytes - self.total

    def of(self, name: str) -> int:
        """Bytes of a share; 0 if there is none of that name."""
        return sum(share.n_bytes for share in self.shares if share.name == name)

    def rows(self) -> list[tuple[str, int, str]]:
        """Name, bytes and detail of each share, of what is left, and of the budget."""
        rows = [(share.name, share.n_bytes, share.detail) for share in self.shares]
        return [*rows, ("left", self.left, ""), ("memory budget", self.n_bytes, "")]

    def __str__(self) -> str:
        width = max(len(name) for name, *_ in self.rows())
        return "\n".join(
            f"{name:<{width}}  {n_bytes:>15,} bytes  {n_bytes / MIB:>9,.1f} MiB  {detail}".rstrip()
            for name, n_bytes, detail in self.rows()
        )


def described(shares: Iterable[Share]) -> str:
    """Shares in a row, for messages."""
    return ", ".join(f"{share.name} {share.n_bytes / MIB:,.0f}" for share in shares)
