"""Finds stop strings in text that arrives in pieces."""


class StopFinder:
    """Holds back what could be the beginning of a stop string until it is decided."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False
        self.rest = ""
        """What followed the stop string in the piece that completed it."""

    def push(self, piece: str) -> str:
        """Take a piece; return what may be shown. After a stop string nothing more is shown."""
        if self.found:
            return ""
        text = self._held + piece
        found = [(at + len(s), at) for s in self._stops if (at := text.find(s)) >= 0]
        if found:
            # The one that ends first, as if the text had come letter by letter.
            end, start = min(found)
            self.found, self._held, self.rest = True, "", text[end:]
            return text[:start]
        keep = self._possible_start(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """The rest, when no more text comes."""
        rest, self._held = self._held, ""
        return rest

    def _possible_start(self, text: str) -> int:
        """Length of the longest end of `text` that begins some stop string."""
        longest = max((len(stop) for stop in self._stops), default=0)
        for size in range(min(longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[len(text) - size :]) for stop in self._stops):
                return size
        return 0
