"""Whatever the logits are, an answer has the form that was asked for."""

import json
import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from deepseek.core.constraint import Constraint
from deepseek.core.errors import RequestError
from deepseek.core.llm import Completion, Message, SamplingParams
from deepseek.engine import constraint as module
from deepseek.engine import grammar_trial
from deepseek.engine.answer import Answer
from deepseek.engine.constraint import Grammars, check_constraint, grammars_of
from deepseek.engine.engine import Engine
from deepseek.tokenizer.tokenizer import Tokenizer
from deepseek.weights.source import open_weights

TEXT = {"type": "string", "maxLength": 6}
NULL = {"type": "null"}


def record(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


SCHEMAS: dict[str, Any] = {
    "flat": record(name=TEXT, age={"type": "integer", "minimum": 0, "maximum": 150}),
    "enum": {"enum": ["é", "日本語", "😀", 'a "quoted" \\ text', 12, None]},
    "nested": record(a=record(b=record(c={"type": "boolean"})), d={"const": {"x": [1, "zwei"]}}),
    "array": {"type": "array", "items": TEXT, "minItems": 2, "maxItems": 3},
    "union": {"anyOf": [record(kind={"const": "p"}, v={"type": "null"}), {"type": "boolean"}]},
    "optional": {
        "type": "object",
        "properties": {"né": TEXT, "b": {"type": "boolean"}},
        "additionalProperties": False,
    },
    "pattern": record(code={"type": "string", "pattern": "^[あ-ん]{2}-[0-9]{2}$"}),
    "reference": {
        "$defs": {"leaf": record(v={"enum": [1, 2]})},
        "type": "array",
        "items": {"$ref": "#/$defs/leaf"},
        "maxItems": 2,
    },
    "nothing else": record(),
}


def drawn(
    tokenizer: Tokenizer, params: SamplingParams, seed: int, scale: float = 5.0
) -> Completion:
    """The answer of a model whose logits are noise."""
    generator = torch.Generator().manual_seed(seed)
    answer = Answer(tokenizer, params, [])
    while answer.finish_reason is None:
        answer.add(scale * torch.randn(tokenizer.vocab_size + 7, generator=generator))
    answer.flush()
    return answer.completion(n_reused_tokens=0, prefill_seconds=0.0, decode_seconds=0.0)


def noise(constraint: Constraint, seed: int, **settings: Any) -> SamplingParams:
    return SamplingParams(
        constraint=constraint, temperature=float(seed % 2), seed=seed, max_tokens=400, **settings
    )


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("seed", range(4))
def test_noise_becomes_valid_json(engine: Engine, name: str, seed: int) -> None:
    params = noise(Constraint.json_schema(SCHEMAS[name]), seed)
    completion = drawn(engine.tokenizer, params, seed, scale=(1.0, 5.0, 1e4, 1e30)[seed])
    assert completion.finish_reason == "stop"
    value = json.loads(completion.text)
    jsonschema.validate(value, SCHEMAS[name])
    assert json.dumps(value, ensure_ascii=False) == completion.text or "\\" in completion.text


@pytest.mark.parametrize("seed", range(6))
def test_any_json_object_is_one_or_is_visibly_cut(engine: Engine, seed: int) -> None:
    completion = drawn(engine.tokenizer, noise(Constraint.json(), seed), seed)
    assert completion.text.startswith("{")
    if completion.finish_reason == "stop":
        assert isinstance(json.loads(completion.text), dict)
    else:
        assert completion.finish_reason == "length"


@pytest.mark.parametrize(
    "pattern",
    [
        r"[A-Z][a-z]{1,8} [0-9]{4}",
        r"(yes|no|ça va)!?",
        r"[à-ü]{3}",
        r" [あ-ん]{1,3}😀",
        r"a*b{2,4}c",
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_noise_matches_the_expression(engine: Engine, pattern: str, seed: int) -> None:
    completion = drawn(engine.tokenizer, noise(Constraint.regex(pattern), seed), seed)
    if completion.finish_reason == "stop":
        assert re.fullmatch(pattern, completion.text)
    else:
        assert pattern.startswith("a*")


@pytest.mark.parametrize("seed", range(4))
def test_noise_derives_from_the_grammar(engine: Engine, seed: int) -> None:
    grammar = Constraint.grammar('start: "(" start? ")" | N\nN: /[0-9]{1,2}/')
    text = drawn(engine.tokenizer, noise(grammar, seed), seed).text
    depth = text.count("(")
    assert re.fullmatch(r"\(*([0-9]{1,2})?\)*", text)
    assert text.count(")") == depth or len(text) > 300


CHOICES = ("yes", "yes, certainly", "ye olde", "no", "日本", "日本語", "\n- x")


def test_the_mask_is_what_some_choice_begins_with(engine: Engine) -> None:
    """The slow reference tries each token of the vocabulary behind what is there."""
    tokenizer = engine.tokenizer
    options = [choice.encode() for choice in CHOICES]
    generator = random.Random(3)
    for _ in range(20):
        matcher = grammars_of(tokenizer).matcher(Constraint.choice(CHOICES))
        said = b""
        while not matcher.is_complete:
            possible = {
                i
                for i in range(tokenizer.vocab_size)
                if i not in tokenizer.control_ids
                and (piece := tokenizer.token_bytes(i))
                and any(o.startswith(said + piece) for o in options)
            }
            ends = set(tokenizer.eos_ids) if said in options else set()
            allowed = set(matcher.allowed(tokenizer.vocab_size).nonzero().flatten().tolist())
            if len({o for o in options if o.startswith(said)}) > 1:
                assert allowed <= possible | ends
                assert {tokenizer.token_bytes(i)[:1] for i in allowed - ends} == {
                    tokenizer.token_bytes(i)[:1] for i in possible
                }
            assert ends == allowed & tokenizer.eos_ids
            token_id = generator.choice(sorted(allowed))
            if token_id in tokenizer.eos_ids:
                break
            matcher.accept(token_id)
            said += tokenizer.token_bytes(token_id)
        assert said in options


@pytest.mark.parametrize("name", SCHEMAS)
def test_forced_tokens_are_the_only_ones_allowed(engine: Engine, name: str) -> None:
    tokenizer = engine.tokenizer
    generator = random.Random(5)
    matcher = grammars_of(tokenizer).matcher(Constraint.json_schema(SCHEMAS[name]))
    n_forced = 0
    for _ in range(300):
        if matcher.is_complete:
            break
        for token_id in matcher.forced_tokens():
            assert matcher.allowed(tokenizer.vocab_size).nonzero().flatten().tolist() == [token_id]
            matcher.accept(token_id)
            n_forced += 1
        if matcher.is_complete:
            break
        allowed = matcher.allowed(tokenizer.vocab_size).nonzero().flatten().tolist()
        matcher.accept(generator.choice([i for i in allowed if i not in tokenizer.eos_ids]))
        assert not matcher.error
    assert matcher.is_complete
    assert n_forced or name == "enum"


@pytest.mark.parametrize("seed", range(3))
def test_reading_forced_tokens_together_changes_nothing(
    engine: Engine, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = noise(Constraint.json_schema(SCHEMAS["nested"]), seed, logprobs=2)
    steps: list[int] = []
    extend = engine.runner.extend
    monkeypatch.setattr(
        engine.runner, "extend", lambda ids: (steps.append(len(ids)), extend(ids))[1]
    )
    engine.forget()
    together = engine.generate("A record:", params)
    assert max(steps) > 3
    monkeypatch.setattr("deepseek.engine.single.may_run_ahead", lambda _: False)
    engine.forget()
    alone = engine.generate("A record:", params)
    assert together.token_ids == alone.token_ids
    assert together.text == alone.text
    assert [t.logprob for t in together.logprobs] == pytest.approx(
        [t.logprob for t in alone.logprobs], abs=1e-3
    )
    json.loads(together.text)


def test_guesses_fit_as_far_as_the_constraint_allows(engine: Engine) -> None:
    params = SamplingParams(constraint=Constraint.regex("(ab|ba)*c"))
    answer = Answer(engine.tokenizer, params, [5])
    ids = {letter: engine.tokenizer.encode(letter)[0] for letter in "abc"}
    text = [ids[letter] for letter in "abbaaab"]
    assert answer.fitting(text) == text[:5]
    assert answer.fitting([ids["c"], ids["c"]]) == [ids["c"]]
    assert answer.fitting([]) == []
    for letter in "ab":
        logits = torch.full((engine.runner.model.config.vocab_size,), -100.0)
        logits[ids[letter]] = 0.0
        answer.add(logits)
    assert answer.fitting(text[2:4]) == text[2:4], "nothing was used up by asking"
    assert answer.fitting([ids["c"], ids["a"]]) == [ids["c"]]
    free = Answer(engine.tokenizer, SamplingParams(), [5])
    assert free.fitting(text) == text


def test_a_stop_string_among_tokens_read_ahead(engine: Engine) -> None:
    constraint = Constraint.json_schema(SCHEMAS["nested"])
    completion = engine.generate("x", max_params(constraint, stop=('"b"',)))
    assert (completion.text, completion.finish_reason) == ('{"a": {', "stop")
    assert len(engine.runner.tokens) <= engine.count_tokens("x") + len(completion.token_ids)


def max_params(constraint: Constraint, **settings: Any) -> SamplingParams:
    return SamplingParams(**({"constraint": constraint, "max_tokens": 60} | settings))


def test_a_budget_that_ends_inside_a_value_is_told(engine: Engine) -> None:
    constraint = Constraint.json_schema({"const": "a text of some words"})
    whole = engine.generate("x", max_params(constraint))
    n_tokens = len(whole.token_ids)
    assert (whole.text, whole.finish_reason) == ('"a text of some words"', "stop")
    just = engine.generate("x", max_params(constraint, max_tokens=n_tokens))
    assert just.finish_reason == "stop"
    cut = engine.generate("x", max_params(constraint, max_tokens=n_tokens - 1))
    assert cut.finish_reason == "length"
    assert whole.text.startswith(cut.text)
    assert cut.text != whole.text


def test_many_at_once_are_those_one_by_one(engine: Engine) -> None:
    each = [
        noise(Constraint.json_schema(SCHEMAS["flat"]), 1),
        noise(Constraint.choice(CHOICES), 3),
        SamplingParams(max_tokens=5),
        noise(Constraint.json_schema(SCHEMAS["array"]), 5),
    ]
    together = dict(engine.generate_many(["You may", "You may not", "All", "You"], each))
    jsonschema.validate(json.loads(together[0].text), SCHEMAS["flat"])
    jsonschema.validate(json.loads(together[3].text), SCHEMAS["array"])
    assert together[1].text in CHOICES
    assert len(together[2].token_ids) == 5
    for index, prompt in enumerate(("You may", "You may not", "All", "You")):
        engine.forget()
        assert engine.generate(prompt, each[index]).token_ids == together[index].token_ids


BAD = {
    "no type": (lambda: Constraint.json_schema({"type": "strnig"}), "Invalid type: strnig"),
    "unsupported": (lambda: Constraint.json_schema({"not": {"type": "null"}}), "Unimplemented"),
    "remote": (lambda: Constraint.json_schema({"$ref": "http://example.com/s"}), "example.com"),
    "circle": (lambda: Constraint.json_schema({"$ref": "#"}), "no text has this form"),
    "impossible": (lambda: Constraint.regex(r"a[^\s\S]"), "no text has this form"),
    "deep": (lambda: Constraint.json_schema('{"not":' * 300 + "{}" + "}" * 300), "recursion"),
    "wide": (lambda: Constraint.json_schema({"enum": [f"v{i:06}" for i in range(9_000)]}), ""),
    "product": (
        lambda: Constraint.json_schema(
            {
                "allOf": [
                    {"anyOf": [record(**{f"p{i}{j}": TEXT}) for j in range(4)]} for i in range(12)
                ]
            }
        ),
        "too large",
    ),
    "unclosed": (lambda: Constraint.regex("[a"), "unclosed character class"),
    "look-around": (lambda: Constraint.regex("(?=a)b"), "look-around"),
    "nested repeats": (lambda: Constraint.regex("(a{100}){100}" * 3 + "(((a?){99}){99}){99}"), ""),
    "no rule": (lambda: Constraint.grammar("start: x"), "unknown name"),
    "no grammar": (lambda: Constraint.grammar("hello"), "Expected"),
    "wide row": (
        lambda: Constraint.json_schema({"properties": {f"p{i}": NULL for i in range(2_500)}}),
        "JSON schema cannot be used",
    ),
}


@pytest.mark.parametrize("name", [name for name in BAD if name not in ("wide", "nested repeats")])
def test_a_constraint_that_cannot_be_used_is_refused_with_a_hint(engine: Engine, name: str) -> None:
    make, what = BAD[name]
    for ask in (engine.generate, engine.stream, lambda p, s: engine.generate_many([p], s)):
        with pytest.raises(RequestError, match=what) as caught:
            ask("x", max_params(make()))
        assert caught.value.hint
        assert len(caught.value.message) < 500


@pytest.mark.parametrize("name", ["wide", "nested repeats"])
def test_large_constraints_work_or_are_refused(engine: Engine, name: str) -> None:
    params = max_params(BAD[name][0](), max_tokens=4)
    try:
        reason = drawn(engine.tokenizer, params, 1).finish_reason
    except RequestError:
        reason = "refused"
    assert reason in ("stop", "length", "constraint", "refused")


def test_compiling_ends_in_time_and_the_next_one_compiles(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This one takes most of a minute, and nothing in the compiler would end it."""
    monkeypatch.setattr(grammar_trial, "TRIAL_SECONDS", 0.3)
    grammars = Grammars(engine.tokenizer)
    with pytest.raises(RequestError, match="too complex"):
        grammars.matcher(Constraint.regex("a*" * 30_000))
    monkeypatch.undo()
    assert (
        grammars.matcher(Constraint.regex("[ab]")).allowed(engine.tokenizer.vocab_size).sum() == 2
    )


def test_a_limit_that_is_met_on_the_way_ends_the_answer_visibly(engine: Engine) -> None:
    """Beyond the steps that are tried before: a row of thousands of optional properties."""
    wide = {"type": "object", "properties": {f"p{i}": NULL for i in range(2_500)}}
    schema = record(a={"type": "string", "pattern": "^[ab]{40,60}$"}, b=wide)
    completion = drawn(engine.tokenizer, max_params(Constraint.json_schema(schema)), 1)
    assert completion.finish_reason == "constraint"
    assert re.match('{"a": "[ab]{30}', completion.text)


def test_compiled_constraints_are_kept_but_not_all(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammars = Grammars(engine.tokenizer)
    compiled: list[Constraint] = []
    compile_one = grammars._compile
    monkeypatch.setattr(grammars, "_compile", lambda c: (compiled.append(c), compile_one(c))[1])
    monkeypatch.setattr(module, "MAX_KEPT", 2)
    for text in ("a", "b", "a", "c", "a", "b"):
        grammars.matcher(Constraint.choice([text]))
    assert [c.choices[0] for c in compiled] == ["a", "b", "c", "b"]


def test_answers_of_one_constraint_are_independent(engine: Engine) -> None:
    grammars = grammars_of(engine.tokenizer)
    first, second = (grammars.matcher(Constraint.choice(["ab", "cd"])) for _ in range(2))
    first.accept(engine.encode("a")[0])
    assert first.allowed(engine.tokenizer.vocab_size).sum() == 1
    assert second.allowed(engine.tokenizer.vocab_size).sum() >= 2


def test_threads_share_what_is_compiled(engine: Engine) -> None:
    grammars = Grammars(engine.tokenizer)

    def ends(index: int) -> str:
        matcher = grammars.matcher(Constraint.choice([f"{index % 3} is one", "a"]))
        said = b""
        while not matcher.is_complete:
            allowed = matcher.allowed(engine.tokenizer.vocab_size).nonzero().flatten().tolist()
            matcher.accept(allowed[0])
            said += engine.tokenizer.token_bytes(allowed[0])
        return said.decode()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ends, range(12))) == [f"{i % 3} is one" for i in range(12)]
    assert len(grammars._compiled) == 3


def test_what_needs_no_model_is_checked_without_one() -> None:
    check_constraint(Constraint.json_schema(SCHEMAS["flat"]))
    check_constraint(Constraint.choice(CHOICES))
    with pytest.raises(RequestError, match="Invalid type"):
        check_constraint(BAD["no type"][0]())


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> Tokenizer:
    return Tokenizer.from_gguf_metadata(open_weights(smollm2_path).metadata)


@pytest.fixture(scope="module")
def qwen(qwen_path: Path) -> Tokenizer:
    return Tokenizer.from_gguf_metadata(open_weights(qwen_path).metadata)


def check_tokenizer(tokenizer: Tokenizer) -> None:
    """Characters of several bytes come whole; special and unused tokens never do."""
    for text in ("日本語", "ça", "😀👩‍👩‍👧", 'x "y" \\', "<|im_end|>", "a\n\n\tb"):
        completion = drawn(tokenizer, noise(Constraint.choice([text]), 1), 1)
        assert (completion.text, completion.finish_reason) == (text, "stop")
        assert list(completion.token_ids) == tokenizer.encode(text)
    free = grammars_of(tokenizer).matcher(Constraint.regex(r"(?s:.)*"))
    allowed = set(free.allowed(tokenizer.vocab_size + 9).nonzero().flatten().tolist())
    assert allowed & tokenizer.control_ids == tokenizer.eos_ids
    assert not allowed & tokenizer.unused_ids
    assert max(allowed) < tokenizer.vocab_size
    assert len(allowed) > 0.9 * (tokenizer.vocab_size - len(tokenizer.unused_ids))
    for seed in range(3):
        for schema in SCHEMAS.values():
            text = drawn(tokenizer, noise(Constraint.json_schema(schema), seed), seed).text
            jsonschema.validate(json.loads(text), schema)


@pytest.mark.weights
def test_the_tokenizer_of_smollm2(smollm2: Tokenizer) -> None:
    check_tokenizer(smollm2)


@pytest.mark.large
def test_the_tokenizer_of_qwen(qwen: Tokenizer) -> None:
    check_tokenizer(qwen)


PERSON = record(
    name={"type": "string", "maxLength": 30},
    age={"type": "integer", "minimum": 0, "maximum": 120},
    home=record(city={"type": "string", "maxLength": 20}, country={"enum": ["日本", "España"]}),
    likes={"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 2},
)


@pytest.mark.weights
def test_real_weights_answer_in_the_form(smollm2_path: Path) -> None:
    from deepseek.engine.loader import load_engine

    engine, _ = load_engine(str(smollm2_path), threads=1)
    prompt = [Message("user", "Describe Kenji, a man of 41 years who lives in Kyoto, as JSON.")]
    for seed in (0, 1):
        params = noise(Constraint.json_schema(PERSON), seed)
        completion = engine.generate(prompt, params)
        assert completion.finish_reason == "stop"
        value = json.loads(completion.text)
        jsonschema.validate(value, PERSON)
        engine.forget()
        assert "".join(d.text for d in engine.stream(prompt, params)) == completion.text
    cities = Constraint.choice([" Berlin", " London", " Paris", " Rome"])
    assert engine.generate("The capital of France is", max_params(cities)).text == " Paris"
