"""Constraints say what is wrong with their source before any model is there."""

import json

import pytest

from deepseek.core.constraint import MAX_CHARACTERS, Constraint
from deepseek.core.errors import RequestError


def test_the_order_of_a_schema_is_kept_and_equal_ones_are_equal() -> None:
    schema = {"type": "object", "properties": {"b": True, "a": {"const": "é"}}}
    constraint = Constraint.json_schema(schema)
    assert list(json.loads(constraint.source)["properties"]) == ["b", "a"]
    assert constraint == Constraint.json_schema(json.dumps(schema))
    assert hash(constraint) == hash(Constraint.json_schema(schema))
    assert constraint != Constraint.regex(constraint.source)
    assert Constraint.json() == Constraint.json_schema({"type": "object"})


def test_choices_are_read_back() -> None:
    assert Constraint.choice(["a", "日本"]).choices == ("a", "日本")
    assert Constraint.regex("a").choices == ()


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Constraint.json_schema("{"), "no valid JSON"),
        (lambda: Constraint.json_schema("[]"), "no object"),
        (lambda: Constraint.json_schema('{"const": NaN}'), "NaN is no JSON"),
        (lambda: Constraint.json_schema({"const": {1, 2}}), "cannot be written as JSON"),
        (lambda: Constraint.json_schema('{"a":' * 100_000), "too long"),
        (lambda: Constraint.json_schema("[" * 90_000), "no valid JSON"),
        (lambda: Constraint.regex(""), "empty"),
        (lambda: Constraint.regex("a" * (MAX_CHARACTERS + 1)), "too long"),
        (lambda: Constraint.grammar(""), "empty"),
        (lambda: Constraint.choice([]), "nothing or too much"),
        (lambda: Constraint.choice(["a"] * 1_001), "nothing or too much"),
        (lambda: Constraint.choice(["a", ""]), "a choice is empty"),
        (lambda: Constraint.choice("ab"), "one string"),
        (lambda: Constraint("choice", '{"a": 1}'), "nothing or too much"),
    ],
)
def test_a_wrong_source_is_refused_with_a_hint(make: object, what: str) -> None:
    with pytest.raises(RequestError, match=what) as caught:
        make()  # type: ignore[operator]
    assert caught.value.hint
