"""Does it pay to order and to clean what is trained on? → benchmarks/results/training.*

    python benchmarks/training.py [--parts curriculum filtering] [--seeds 3] [--tokens 200000]

* curriculum: three stages beside the same windows shuffled, under three schedules
  (benchmarks/curriculum.py).
* filtering: cleaned and weighted texts beside raw ones, at equal tokens and at half
  (benchmarks/filtering.py).

Models have 1.3 million parameters and one thread. Both sides of a pair have the same seed;
intervals are bootstraps over seeds and documents together. Arms are kept in out/arms: what was
stopped goes on, seed after seed, and after each seed the results are written.
"""

import argparse
import json
from dataclasses import replace

import curriculum
import filtering
from chart import Panels, draw_curves
from followed import Scale
from report import RESULTS, ROOT, keep_rows, say_row

PARTS = {"curriculum": curriculum.rows, "filtering": filtering.rows}
FILE = "training.svg"
SMALL = {"measured": 800, "along": 200, "points": 2, "window": 64}
"""What `--quick` does, beside few tokens."""


def main() -> None:
    """Run seed after seed and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="seed: rates are chosen on others")
    parser.add_argument(
        "--tokens", type=int, default=200_000, help="of an arm; two thirds in filtering"
    )
    parser.add_argument("--kept", action="store_true", help="train nothing: pairs that are done")
    parser.add_argument("--quick", action="store_true", help="few tokens, one seed, no file")
    args = parser.parse_args()
    scale = Scale(tokens=args.tokens, kept_only=args.kept)
    if args.quick:
        scale, args.seeds = Scale(tokens=4_096, **SMALL), 1
    # The corpus is small: with more, cleaned texts would be read twice.
    scales = {"curriculum": scale, "filtering": replace(scale, tokens=scale.tokens * 2 // 3)}
    for done in range(args.seeds if args.kept else 1, args.seeds + 1):
        for part in args.parts:
            seeds = range(args.first, args.first + done)
            rows, panels = PARTS[part](seeds, scales[part], args.quick)
            if args.quick:
                for row in rows:
                    say_row(row)
            else:
                keep_rows("training", part, rows)
                draw(part, panels)


def draw(part: str, panels: Panels) -> None:
    """Keep a part's curves, and draw all that are kept."""
    folder = ROOT / "out" / "training" / "panels"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{part}.json").write_text(json.dumps(panels))
    kept = [json.loads((folder / f"{name}.json").read_text()) for name in PARTS
            if (folder / f"{name}.json").exists()]  # fmt: skip
    draw_curves({title: own for one in kept for title, own in one.items()}, RESULTS / FILE)


if __name__ == "__main__":
    main()
