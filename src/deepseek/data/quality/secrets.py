"""Keys, tokens and passwords: by the form that their makers give them, else by their entropy."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from deepseek.data.quality.redaction import Finding, RedactingOperator

KINDS = ("private_key", "token", "password")
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----[\s\S]{40,8000}?"
    r"-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
)
_TOKEN = re.compile(
    r"(?<![\w-])(?:"
    r"(?:AKIA|ASIA|AGPA|AIDA|AROA)[A-Z0-9]{16}"  # Amazon
    r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_\w{22,255}"  # GitHub
    r"|gl(?:pat|dt|rt)-[\w-]{20,64}"  # GitLab
    r"|xox[abeoprs]-[\w-]{10,250}|xapp-\d-[\w-]{20,250}"  # Slack
    r"|AIza[\w-]{35}|ya29\.[\w-]{20,250}"  # Google
    r"|sk-(?:ant-|proj-|svcacct-)?[\w-]{20,250}"  # OpenAI, Anthropic
    r"|[rs]k_(?:live|test)_[A-Za-z0-9]{16,250}"  # Stripe
    r"|hf_[A-Za-z]{34}|npm_[A-Za-z0-9]{36}|pypi-AgEI[\w-]{50,250}|dop_v1_[a-f0-9]{64}"
    r"|SG\.[\w-]{16,32}\.[\w-]{16,64}"  # SendGrid
    r"|eyJ[\w-]{10,2000}\.eyJ[\w-]{10,4000}\.[\w-]{10,1000}"  # JSON web tokens
    r")(?![\w-])"
)
_PASSWORD = re.compile(r"(?<=://)[^\s:/@'\"<>{}$]{1,64}:([^\s/@'\"<>{}$]{3,128})@(?=[\w.-]+)")
_NAMED = re.compile(
    r"(?<![a-z])(?:api|access|secret|private|auth|encryption|signing|client)?[_ -]?"
    r"(?:key|secret|token|passw(?:or)?d|pwd|credentials?)\b[\"']?\s{0,4}(?::=|=>|=|:)\s{0,4}"
    r"[\"']?([A-Za-z0-9+/_=~.-]{16,512})(?![\w+/=])",
    re.IGNORECASE,
)
_EXAMPLE = re.compile(
    r"example|sample|dummy|placeholder|changeme|your[_-]?|xxxx|1234567890abcdef|redacted|fake|\*{3}",
    re.IGNORECASE,
)
MIN_ENTROPY = 3.0
"""Bits a character. Random base64 of 20 characters has about 3.9, hexadecimal 3.3, names 2.5."""


@dataclass(frozen=True, slots=True)
class SecretsSettings:
    """What becomes of documents with secrets."""

    drop_from: int = 0
    """From so many findings a document is dropped; 0: all are redacted."""


class Secrets(RedactingOperator):
    """Redacts. Examples, and words that only stand where a secret would, stay."""

    name = "secrets"
    Settings = SecretsSettings
    kinds = KINDS

    def findings(self, text: str) -> Iterator[Finding]:
        """Of all kinds."""
        if "PRIVATE KEY" in text:
            for match in _PRIVATE_KEY.finditer(text):
                yield Finding(match.start(), match.end(), "private_key")
        for match in _TOKEN.finditer(text):
            if entropy(match[0]) >= MIN_ENTROPY and not _EXAMPLE.search(match[0]):
                yield Finding(match.start(), match.end(), "token")
        for match in _PASSWORD.finditer(text):
            if not _EXAMPLE.search(match[1]) and match[1].lower() not in _WORDS:
                yield Finding(match.start(1), match.end(1), "password")
        for match in _NAMED.finditer(text):
            if is_random(match[1]):
                yield Finding(match.start(1), match.end(1), "token")


_WORDS = frozenset("password pass passwd pwd secret user token pw port hostname".split())


_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_WORD = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]+(?![A-Za-z0-9])|[A-Z]?[a-z]{4,}|[A-Z]{5,}")


def is_random(value: str) -> bool:
    """Whether a value that is called a secret looks drawn, not written."""
    if _UUID.fullmatch(value):  # an identifier, and mostly of nothing secret
        return False
    has_upper, has_lower = any(map(str.isupper, value)), any(map(str.islower, value))
    is_mixed = any(map(str.isdigit, value)) and (has_upper or has_lower)
    if _EXAMPLE.search(value) or not (is_mixed or (has_upper and has_lower)):
        return False
    if value.count(".") > 2 or "/" in value[:2]:
        return False
    in_words = sum(map(len, _WORD.findall(value)))
    return entropy(value) >= MIN_ENTROPY and in_words <= 0.5 * len(value)


def entropy(text: str) -> float:
    """Bits by character of a text's own distribution of characters."""
    n = len(text)
    return -sum(c / n * math.log2(c / n) for c in Counter(text).values()) if n else 0.0
