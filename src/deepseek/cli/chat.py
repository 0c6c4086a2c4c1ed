"""`deepseek chat`: a conversation in the terminal."""

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from deepseek.cli.options import (
    adapter_of,
    add_adapter_option,
    add_context_option,
    add_model_options,
    add_prefix_options,
    add_sampling_options,
    open_model,
    sampling_of,
)
from deepseek.core.errors import RequestError
from deepseek.core.llm import Message, SamplingParams

if TYPE_CHECKING:
    from deepseek.cli.console import ReadingBar
    from deepseek.r1 import R1Model

HELP = "Talk with a model. Ctrl-C stops an answer, Ctrl-D ends the conversation."
EXAMPLES = (
    "deepseek chat --model smollm2-135m",
    'deepseek chat --system "Answer in Chinese." --temperature 0.3',
)
COMMANDS = """  /new            forget the conversation
  /system TEXT    set the system message and start anew
  /save FILE      write the conversation as Markdown
  /retry          answer the last question again
  /help           show this
  /quit           leave (or Ctrl-D)"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--system", metavar="TEXT", help="a system message")
    add_context_option(parser)
    add_adapter_option(parser)
    add_sampling_options(parser, temperature=0.7)
    add_model_options(parser)
    add_prefix_options(parser)


def run(args: argparse.Namespace) -> int:
    """Converse until the input ends."""
    from deepseek.cli.console import ReadingBar, is_interactive, say
    from deepseek.core.errors import DeepSeekError

    if args.context and args.system:
        raise RequestError("--context takes no --system", "save it with a system message")
    params = sampling_of(args)
    bar = ReadingBar()
    model = open_model(args, on_prefill=bar)
    talk = Conversation(model, params, args.system, bar, adapter_of(args))
    interactive = is_interactive()
    if interactive:
        _load_history()
        say(f"{talk.model.name} · {talk.model.context_window:,} tokens · /help for commands")
    while True:
        try:
            line = input("you> " if interactive else "")
        except EOFError:
            break
        except KeyboardInterrupt:
            say("\n(Ctrl-D ends the conversation)")
            continue
        try:
            if not talk.take(line.strip()):
                break
        except DeepSeekError as error:
            if not interactive:
                raise
            say(f"error: {error.message}\nhint: {error.hint}")
    if interactive:
        _save_history()
        print()
    return 0


class Conversation:
    """The turns so far, and what to do with a line of input."""

    def __init__(
        self,
        model: "R1Model",
        params: SamplingParams,
        system: str | None,
        bar: "ReadingBar",
        adapter: str | None = None,
    ) -> None:
        self.model = model
        self._adapter = adapter
        self._bar = bar
        self.params = params
        self.context = model.context
        if self.context is not None and isinstance(self.context.beginning, str):
            raise RequestError(
                "a text saved with --raw is no conversation", "save it without, or use generate"
            )
        self.begin(system)

    def begin(self, system: str | None) -> None:
        """Start anew, with or without a system message."""
        self.system = system
        self.turns = [Message("system", system)] if system else []
        self._before: list[Message] = []
        self._question = ""

    def take(self, line: str) -> bool:
        """Answer a question or obey a command. False means to leave."""
        command, _, rest = line.partition(" ")
        if not line:
            return True
        if command in ("/quit", "/exit"):
            return False
        if command == "/new":
            self.begin(self.system)
        elif command == "/system":
            if self.context is not None:
                raise RequestError("the saved context says it", "leave, and start without it")
            self.begin(rest or None)
        elif command == "/save":
            self._save(rest)
        elif command == "/retry":
            self._retry()
        elif command.startswith("/") and command[1:].isalpha():
            from deepseek.cli.console import say

            say(COMMANDS)
        else:
            self.ask(line)
        return True

    def ask(self, question: str) -> None:
        """Stream an answer. Ctrl-C keeps what was said so far as the answer."""
        from deepseek.cli.console import log_completion

        self._before, self._question = self.turns, question
        if self.context is not None and not self.turns:
            following = self.context.followed_by(question)
            assert not isinstance(following, str)
            self.turns = list(following)
        else:
            self.turns = [*self.turns, Message("user", question)]
        said = ""
        try:
            self._fit()
            stream = self.model.stream(self.turns, self.params, adapter=self._adapter)
            with contextlib.closing(stream), self._bar:  # type: ignore[type-var]
                for delta in stream:
                    self._bar.stop()
                    if delta.reasoning:
                        print(delta.reasoning, end="", file=sys.stderr, flush=True)
                    said += delta.text
                    print(delta.text, end="", flush=True)
                    if delta.completion is not None:
                        log_completion(delta.completion)
        except KeyboardInterrupt:
            print(" …", end="")
        except Exception:
            self.turns = self._before  # the question was not answered; it may be asked again
            raise
        print()
        if said:
            self.turns.append(Message("assistant", said))
        else:
            self.turns = self._before

    def _retry(self) -> None:
        if self._question:
            self.turns = self._before
            self.ask(self._question)

    def _fit(self) -> None:
        """Drop the oldest exchanges when the conversation outgrows the context window."""
        from deepseek.cli.console import say

        first = self._n_kept()
        room = self.model.context_window - self.params.max_tokens
        dropped = 0
        while len(self.turns) > first + 2 and self._size() > room:
            del self.turns[first : first + 2]
            dropped += 1
        if dropped:
            say(f"(the oldest {dropped} exchanges no longer fit and were dropped)")

    def _n_kept(self) -> int:
        """Turns that are never dropped: a system message, or a saved text with what follows it."""
        if self.context is None:
            return 1 if self.system else 0
        beginning = self.context.beginning
        assert not isinstance(beginning, str)
        return len(beginning) + (beginning[-1].role == "user")

    def _size(self) -> int:
        """Tokens of all turns, with some for the template around each."""
        return sum(int(self.model.count_tokens(turn.content)) + 8 for turn in self.turns)

    def _save(self, name: str) -> None:
        from deepseek.cli.console import say

        if not name:
            say("error: /save needs a file name")
            return
        text = "\n\n".join(f"**{turn.role}**\n\n{turn.content}" for turn in self.turns)
        try:
            Path(name).expanduser().write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            say(f"error: cannot write {name}: {error.strerror}")
            return
        say(f"wrote {name}")


def _history_file() -> Path:
    from deepseek.weights.cache import home

    return home() / "chat_history"


def _load_history() -> None:
    with contextlib.suppress(ImportError, OSError):
        import readline

        readline.read_history_file(_history_file())


def _save_history() -> None:
    with contextlib.suppress(ImportError, OSError):
        import readline

        readline.set_history_length(1_000)
        file = _history_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        readline.write_history_file(file)
        file.chmod(0o600)
