"""`deepseek context`: read a long text once, save it, ask about it later."""

import argparse
import sys
from pathlib import Path

from deepseek.cli.options import (
    adapter_of,
    add_adapter_option,
    add_model_options,
    open_model,
)
from deepseek.core.errors import ConfigError, DocumentError
from deepseek.core.log import LOGGER

HELP = "Read a long text once and save it; `generate` and `chat` take it up with --context."
EXAMPLES = (
    "deepseek context save book.txt --out book.context --context-window 100000",
    "deepseek context show book.context",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("action", choices=["save", "show"], help="save a text, or show a file")
    parser.add_argument(
        "file", help="save: a text, Markdown or PDF file, or - for stdin; show: a saved context"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where save writes to")
    parser.add_argument("--system", metavar="TEXT", help="a system message before the text")
    parser.add_argument(
        "--raw", action="store_true", help="no chat template: prompts continue the text as it is"
    )
    add_adapter_option(parser)
    parser.add_argument("--verify", action="store_true", help="show: check every page, too")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Save or show a context."""
    return _save(args) if args.action == "save" else _show(args)


def _save(args: argparse.Namespace) -> int:
    from deepseek.cli.console import ReadingBar, next_step, progress_bar
    from deepseek.core.llm import Message

    if args.out is None:
        raise ConfigError("it is not said where to save", "name a file: --out book.context")
    if args.raw and args.system:
        raise ConfigError("--raw takes no --system", "drop one of the two")
    text = _text_of(args.file)
    with ReadingBar() as bar:
        model = open_model(args, on_prefill=bar)
        if args.raw:
            context = model.read(text, raw=True, adapter=adapter_of(args))
        else:
            system = [Message("system", args.system)] if args.system else []
            turns = [*system, Message("user", text)]
            context = model.read(turns, adapter=adapter_of(args))
    with progress_bar(f"writing {args.out}") as on_page:
        model.save_context(args.out, on_page)
    LOGGER.info("%d tokens; attention: %s", context.n_tokens, model.attention)
    LOGGER.info("keys and values: %s", model.keys_and_values)
    print(args.out)
    next_step(f'deepseek generate "Who is the captain?" --context {args.out}')
    return 0


def _show(args: argparse.Namespace) -> int:
    from deepseek.cli.console import progress_bar
    from deepseek.core.config import build
    from deepseek.engine.context import parsed_text
    from deepseek.model.context_file import ContextFile
    from deepseek.ops.hierarchical import Hierarchy

    with ContextFile(Path(args.file)) as file:
        info = file.info
        beginning = parsed_text(file.path, file.text())
        if args.verify:
            with progress_bar(f"checking {args.file}") as on_page:
                for number in range(len(info.pages)):
                    for _ in file.pages(number, on_page):
                        pass
    messages = [("text", beginning)] if isinstance(beginning, str) else []
    if not isinstance(beginning, str):
        messages = [(message.role, message.content) for message in beginning]
    attention = "dense"
    if info.attention is not None:
        attention = build(Hierarchy, info.attention, "attention.").describe()
    print(f"model      {info.model} ({info.fingerprint[:12]})")
    print(f"tokens     {info.n_tokens:,}, read in a window of {info.context_window:,}")
    print(f"attention  {attention}")
    if info.adapter is not None:
        print(
            f"adapter    {info.adapter.get('name')} ({str(info.adapter.get('fingerprint'))[:12]})"
        )
    for kind in info.pages:
        size = kind.n_pages * kind.page_bytes / 2**20
        print(f"pages      {kind.n_pages:,} of {kind.name}, {kind.layout}, {size:,.0f} MiB")
    for role, content in messages:
        start = " ".join(content[:200].split())[:60]
        print(f"{role:<9}  {start}… ({len(content):,} characters)")
    if args.verify:
        print("checked    every page is as it was written")
    return 0


def _text_of(name: str) -> str:
    """The text of a file, as it stands; of a PDF that of its pages.

    Raises:
        DocumentError: It cannot be read, or has no text.
    """
    path = Path(name).expanduser()
    try:
        if name == "-":
            text = sys.stdin.read()
        elif path.suffix.lower() == ".pdf":
            from deepseek.apps.documents.reader import read_document

            text = "\n\n".join(page.text for page in read_document(path).pages)
        else:
            text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DocumentError(f"{name} is no UTF-8 text", "convert it, or name a PDF") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DocumentError(f"cannot read {name}: {reason}", "check the path") from None
    if not text.strip():
        raise DocumentError(f"{name} has no text", "name a file with text")
    return text
