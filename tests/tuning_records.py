"""Records for tuning that a tiny model learns in a few steps: animals, by number."""

import json
import random
from pathlib import Path

ANIMALS = ("cat", "dog", "owl", "fox", "bee")


def animal_records(n: int = 60) -> list[dict[str, object]]:
    """Conversations of several lengths."""
    draw, rows = random.Random(0), list[dict[str, object]]()
    for number in range(n):
        animal = draw.choice(ANIMALS)
        messages = [
            {
                "role": "user",
                "content": f"{number}: who are you, {animal}?" + " Say it." * (number % 3),
            },
            {"role": "assistant", "content": f"I am the {animal} of the work"},
        ]
        rows.append({"messages": messages})
    return rows


def write_records(path: Path, rows: list[dict[str, object]] | None = None) -> Path:
    """As JSON lines; without rows the animals."""
    rows = animal_records() if rows is None else rows
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
