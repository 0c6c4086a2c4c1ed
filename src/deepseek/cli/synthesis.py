"""What `deepseek data synthesize`, `feedback` and `families` do."""

import argparse
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek.core.errors import ConfigError

if TYPE_CHECKING:
    from deepseek.core.llm import LanguageModel
    from deepseek.data.contamination import ContaminationIndex
    from deepseek.data.synthesis.config import SynthesisConfig
    from deepseek.data.synthesis.run import ModelIdentity


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `synthesize` and `feedback`."""
    group = parser.add_argument_group("synthesize")
    group.add_argument("--tasks", metavar="FAMILY[,FAMILY]", help="see `deepseek data families`")
    group.add_argument("--levels", metavar="N[,N]", help="of difficulty, from 0 (default: 0,1,2)")
    group.add_argument("--count", type=int, metavar="N", help="problems of each family and level")
    group.add_argument(
        "--index",
        type=Path,
        metavar="FILE",
        help="also feedback: of `deepseek eval index`; these texts stay out",
    )


def require_out(args: argparse.Namespace) -> None:
    """Refuse to begin what has no place to go to.

    Raises:
        ConfigError: There is no `--out`.
    """
    if args.out is None:
        raise ConfigError("it is not said where to write", "name a place with --out")


class SandboxRunner:
    """Runs programs in the sandbox that the evaluation uses."""

    def extract(self, text: str, names: Collection[str]) -> str:
        """The definitions in an answer that some names need."""
        from deepseek.eval.code import extract_code

        return extract_code(text, names)

    def run(self, code: str, names: Sequence[str], tests: str) -> tuple[bool, str]:
        """Whether tests pass, and if not, why."""
        from deepseek.eval.code import LIMITS
        from deepseek.eval.sandbox import Program, run_tests

        outcome = run_tests(Program(code=code, names=tuple(names), tests=tests), LIMITS)
        return outcome.passed, outcome.detail


def synthesize(args: argparse.Namespace) -> int:
    """Make hard cases for a model."""
    from deepseek.cli.console import next_step, progress_bar, say, write_report
    from deepseek.data.synthesis import run as synthesis
    from deepseek.data.synthesis.report import render_summary, summary, summary_text
    from deepseek.r1 import default_model

    require_out(args)
    config = _config(args)
    index = _index(config)
    model = open_chosen(args)
    with progress_bar("problems") as on_problems:
        outcome = synthesis.synthesize(
            config,
            model,
            identity_of(args, model),
            args.out,
            runner=SandboxRunner(),
            index=index,
            forget=getattr(model, "forget", None),
            on_problems=on_problems,
        )
    found = summary(outcome, config)
    write_report(args.out / "report.json", json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    write_report(args.out / "report.html", render_summary(found))
    print(json.dumps(found, indent=2) if args.json else summary_text(found))
    say(f"written: {args.out}: {synthesis.HARD}, {synthesis.PAIRS}, {synthesis.HELD_OUT}")
    if outcome.n_hard:
        base = args.model or default_model()
        base = "…" if is_served(base) else base
        next_step(f"deepseek tune {base} {args.out / synthesis.HARD} --out …")
    else:
        next_step("the model solves all of them, or none: try other --levels")
    return 0


def read_feedback(args: argparse.Namespace) -> int:
    """Turn a log of users' feedback into records and pairs."""
    from deepseek.cli.console import say
    from deepseek.data.contamination import ContaminationIndex
    from deepseek.data.feedback import feedback_data
    from deepseek.data.feedback import read_feedback as read
    from deepseek.data.lines import write_lines

    require_out(args)
    index = ContaminationIndex.load(args.index) if args.index else None
    data = feedback_data(list(read(args.path)), index)
    write_lines(args.out / "records.jsonl", data.records)
    write_lines(args.out / "pairs.jsonl", data.pairs)
    counts = {
        "read": data.read,
        "repeated": data.repeated,
        "contaminated": data.contaminated,
        "disputed": data.disputed,
        "records": len(data.records),
        "pairs": len(data.pairs),
    }
    if args.json:
        print(json.dumps(counts, indent=2))
    else:
        print(", ".join(f"{value:,} {name}" for name, value in counts.items()))
    say(f"written: {args.out}: records.jsonl, pairs.jsonl")
    return 0


def list_families(args: argparse.Namespace) -> int:
    """Print the families of generated problems and their levels."""
    from deepseek.cli.console import say
    from deepseek.data.synthesis.families import all_families, own_families

    found = all_families()
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    for name, n_levels in found.items():
        print(f"{name:<40}  levels 0 to {n_levels - 1}")
    if len(found) == len(own_families()):
        say('about 90 more with reasoning-gym: pip install "deepseek[synthesis]"')
    return 0


def open_chosen(args: argparse.Namespace, name: str | None = None) -> "LanguageModel":
    """The model of `--model`: our engine, or a server's."""
    from deepseek.cli.evaluation import open_backend

    return open_backend(argparse.Namespace(**vars(args), backend="engine"), name)


def identity_of(args: argparse.Namespace, model: "LanguageModel") -> "ModelIdentity":
    """Name and digest of a model, for provenance; a server's weights are not at hand."""
    from deepseek.data.synthesis.run import ModelIdentity
    from deepseek.r1 import default_model
    from deepseek.weights.fingerprint import fingerprint
    from deepseek.weights.pull import ensure
    from deepseek.weights.source import open_weights

    chosen = args.model or default_model()
    return ModelIdentity(
        name=model.name,
        weights=str(getattr(model, "weights", "")),
        fingerprint="" if is_served(chosen) else fingerprint(open_weights(ensure(chosen).path)),
    )


def is_served(name: str) -> bool:
    """Whether a model's weights are somewhere else."""
    return name.startswith(("http://", "https://"))


def _config(args: argparse.Namespace) -> "SynthesisConfig":
    """The file, or what `--tasks` says; `--set` and `--index` change either."""
    from deepseek.core.config import apply_override
    from deepseek.data.synthesis.config import config_of, load_synthesis_config

    changes = [f"{key}={value}" for key, value in _changes(args)] + args.set
    if args.path is not None:
        return load_synthesis_config(args.path, tuple(changes))
    if not args.tasks:
        raise ConfigError("it is not said which problems", "name a TOML file, or --tasks")
    table: dict[str, Any] = {}
    for change in changes:
        apply_override(table, change)
    return config_of(table)


def _changes(args: argparse.Namespace) -> list[tuple[str, str]]:
    found = []
    if args.tasks:
        names = [name.strip() for name in args.tasks.split(",") if name.strip()]
        found.append(("problems.families", json.dumps(names)))
    if args.levels:
        found.append(("problems.levels", f"[{args.levels}]"))
    if args.count is not None:
        found.append(("problems.count", str(args.count)))
    if args.index:
        found.append(("decontamination.index", json.dumps(str(args.index.absolute()))))
    return found


def _index(config: "SynthesisConfig") -> "ContaminationIndex | None":
    from deepseek.data.contamination import ContaminationIndex

    name = config.decontamination.index
    return ContaminationIndex.load(Path(name)) if name else None
