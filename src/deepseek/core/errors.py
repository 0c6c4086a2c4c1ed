"""Every error that a user can cause, with what to do about it.

The command line prints `error: <message>` and `hint: <hint>` and exits with status 2;
a program catches `DeepSeekError` or one of its kinds. Bugs stay ordinary exceptions.
"""

import os


class DeepSeekError(Exception):
    """Base of all errors meant for people: what is wrong, and what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type["DeepSeekError"], tuple[str, str]]:
        return type(self), (self.message, self.hint)


class ConfigError(DeepSeekError):
    """A setting is unknown, of the wrong type or out of its range."""


class CheckpointError(DeepSeekError):
    """A weight file is damaged, truncated, hostile or of an unsupported kind."""


class DownloadError(DeepSeekError):
    """A file could not be fetched, or what arrived is not what was named."""


class TokenizerError(DeepSeekError):
    """A tokenizer or chat template is missing, invalid or exceeds its bounds."""


class RequestError(DeepSeekError):
    """A generation request is invalid: empty prompt, too long, parameters out of range."""


class DiskError(RequestError):
    """Keys and values that were moved to a disk cannot be read or written; ask again."""

    @classmethod
    def failed(cls, number: int | None) -> "DiskError":
        """Of a system call, with the system's number of the error, if it has one."""
        reason = f": {os.strerror(number)}" if number else ""
        return cls(
            f"keys and values on the disk cannot be read or written{reason}",
            "make sure of the disk and its free space; asked again, the text is read anew",
        )

    @classmethod
    def damaged(cls) -> "DiskError":
        """What is there is not what was written."""
        return cls(
            "keys and values on the disk are damaged",
            "asked again, the text is read anew; check the disk, or do without kv_disk (--kv-disk)",
        )


class ContextError(DeepSeekError):
    """A saved context is damaged, fits another model, or cannot be written."""


class DocumentError(DeepSeekError):
    """A document cannot be read: missing, encrypted, corrupt, or without text."""


class MissingDependencyError(DeepSeekError):
    """An optional package is needed for this feature and is not installed."""


class TrainingError(DeepSeekError):
    """A training run cannot go on: its numbers are not finite any more."""
