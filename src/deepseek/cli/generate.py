"""`deepseek generate`: answer one prompt."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from deepseek.cli.options import (
    adapter_of,
    add_adapter_option,
    add_constraint_options,
    add_context_option,
    add_model_options,
    add_prefix_options,
    add_sampling_options,
    constraint_of,
    open_model,
    sampling_of,
)
from deepseek.core.errors import RequestError
from deepseek.core.log import LOGGER

HELP = "Answer one prompt, streaming the answer to standard output."
EXAMPLES = (
    'deepseek generate "Write a Python function that parses ISO dates." --max-tokens 200',
    'git diff | deepseek generate - --system "Write a commit message." --model smollm2-135m',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("prompt", help="the prompt, or - for standard input")
    parser.add_argument("--system", metavar="TEXT", help="a system message")
    parser.add_argument(
        "--raw", action="store_true", help="continue the text as it stands, without chat template"
    )
    add_context_option(parser)
    add_adapter_option(parser)
    parser.add_argument("--json", action="store_true", help="print the whole completion as JSON")
    parser.add_argument(
        "--logprobs", type=int, metavar="N", help="with --json: log-probabilities, N alternatives"
    )
    parser.add_argument(
        "--explain",
        type=Path,
        metavar="FILE",
        help="write a page that shows what the answer recalled of a long prompt",
    )
    add_sampling_options(parser, temperature=0.0)
    add_constraint_options(parser)
    add_model_options(parser)
    add_prefix_options(parser)


def run(args: argparse.Namespace) -> int:
    """Stream one answer."""
    from deepseek.cli.console import ReadingBar, log_completion, say
    from deepseek.core.llm import Message, Prompt

    text = sys.stdin.read() if args.prompt == "-" else args.prompt
    if not text.strip():
        raise RequestError("the prompt is empty", "give some text, or - and text on stdin")
    if args.raw and args.system:
        raise RequestError("--raw takes no --system", "drop one of the two")
    if args.context and (args.raw or args.system):
        raise RequestError("--context takes neither --raw nor --system", "save it with them")
    params = sampling_of(args, logprobs=args.logprobs, constraint=constraint_of(args))
    prompt: Prompt = text
    if not args.raw:
        system = [Message("system", args.system)] if args.system else []
        prompt = [*system, Message("user", text)]
    completion, adapter = None, adapter_of(args)

    def show(piece: str) -> None:
        bar.stop()
        if not args.json:
            print(piece, end="", flush=True)

    with ReadingBar() as bar:
        model = open_model(args, on_prefill=bar)
        if model.context is not None:
            prompt = model.context.followed_by(text)
        if args.explain:
            recall = model.explain(prompt, params, on_text=show, adapter=adapter)
            recall.write(args.explain)
            completion = recall.completion
        else:
            for delta in model.stream(prompt, params, adapter=adapter):
                if delta.reasoning:
                    bar.stop()
                    print(delta.reasoning, end="", file=sys.stderr, flush=True)
                show(delta.text)
                completion = delta.completion
    assert completion is not None
    if args.json:
        whole = dataclasses.asdict(completion)
        whole["tool_calls"] = [dataclasses.asdict(call) for call in completion.tool_calls]
        print(json.dumps(whole, ensure_ascii=False, indent=2))
    else:
        print()
    if params.constraint is not None and completion.finish_reason != "stop":
        say(f"the {params.constraint.name} is not complete: {completion.finish_reason}")
    log_completion(completion)
    LOGGER.info("attention: %s; keys and values: %s", model.attention, model.keys_and_values)
    return 0
