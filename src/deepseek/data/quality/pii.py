"""Addresses and numbers of persons: e-mail, public IP addresses, telephones."""

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepseek.data.quality.operator import Context, require
from deepseek.data.quality.redaction import Finding, RedactingOperator

KINDS = ("email", "ip", "phone")
_EMAIL = re.compile(
    r"(?<![\w.+%-])[A-Za-z0-9][\w.+%-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}[A-Za-z0-9])?\.)+"
    r"[A-Za-z]{2,24}(?![\w@])"
)
_RESERVED = re.compile(
    r"@(?:[\w-]+\.)*(?:example\.(?:com|org|net)|example|invalid|test|localhost)$", re.I
)
_IPV4 = re.compile(r"(?<![\w.:-])(?:\d{1,3}\.){3}\d{1,3}(?![\w:-]|\.\d)(?!\.\w)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4}(?![\w:])")
_VERSION = re.compile(r"(?:version|ver\.?|v|release|section|§|chapter|oid)[\s:=]*$", re.I)
_PHONE = re.compile(
    r"(?<![\w.,/=+#-])(?:"
    r"\+\d{1,3}[\s.-]?(?:\(0?\d{1,4}\)[\s.-]?)?\d{1,4}(?:[\s.-]?\d{2,4}){2,4}"  # +49 30 1234567
    r"|(?:1[\s.-])?\(\d{3}\)\s?\d{3}[\s.-]\d{4}"  # (212) 555-0100
    r"|(?:1[\s.-])?\d{3}([-.])\d{3}\1\d{4}"  # 212-555-0100
    r"|1[3-9]\d(?:[\s-]?\d{4}){2}"  # Chinese mobile telephones
    r")(?![\w-]|[.,]\d)"
)


@dataclass(frozen=True, slots=True)
class PiiSettings:
    """What is looked for, and what becomes of it."""

    kinds: list[str] = field(default_factory=lambda: list(KINDS))
    drop_from: int = 0
    """From so many findings a document is dropped; 0: all are redacted."""


class Pii(RedactingOperator):
    """Redacts. Reserved names (example.com), private networks and version numbers stay."""

    name = "pii"
    Settings = PiiSettings
    kinds = KINDS

    def __init__(self, settings: Any, context: Context) -> None:
        super().__init__(settings, context)
        unknown = [kind for kind in settings.kinds if kind not in KINDS]
        require(not unknown, f"operators.pii.kinds has {unknown[:1]}", f"known: {', '.join(KINDS)}")
        self._find = [_FINDERS[kind] for kind in KINDS if kind in settings.kinds]

    def findings(self, text: str) -> Iterator[Finding]:
        """Of all kinds that are looked for."""
        for find in self._find:
            yield from find(text)


def _emails(text: str) -> Iterator[Finding]:
    if "@" not in text:
        return
    for match in _EMAIL.finditer(text):
        if not _RESERVED.search(match[0]):
            yield Finding(match.start(), match.end(), "email")


def _addresses(text: str) -> Iterator[Finding]:
    patterns: Sequence[re.Pattern[str]] = (
        (_IPV4, _IPV6) if "::" in text or ":" in text else (_IPV4,)
    )
    for pattern in patterns:
        for match in pattern.finditer(text):
            before = text[max(0, match.start() - 12) : match.start()]
            if is_public(match[0]) and not _VERSION.search(before):
                yield Finding(match.start(), match.end(), "ip")


def is_public(text: str) -> bool:
    """Whether it is an address that somebody has on the internet.

    Of version 6 those in use begin with 2 or 3, and `::2` is how a program takes every second one.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    in_use = address.version == 4 or (text[0] in "23" and len(text) >= 8)
    return in_use and address.is_global


def _phones(text: str) -> Iterator[Finding]:
    for match in _PHONE.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if 8 <= len(digits) <= 15 and len(set(digits)) > 2:
            yield Finding(match.start(), match.end(), "phone")


_FINDERS = {"email": _emails, "ip": _addresses, "phone": _phones}
