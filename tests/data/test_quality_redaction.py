"""Persons' data and secrets: precision and recall on a planted set, and what must stay."""

import random
import string

import pytest
from quality_corpus import made, operator, prose

GENERATOR = random.Random(7)


def drawn(alphabet: str, n: int) -> str:
    return "".join(GENERATOR.choice(alphabet) for _ in range(n))


ALNUM = string.ascii_letters + string.digits
UPPER = string.ascii_uppercase + string.digits
HEXADECIMAL = "0123456789abcdef"


def emails():
    names = [drawn(string.ascii_lowercase, 6) for _ in range(60)]
    yield from (f"{n}.{n[::-1]}@{n}mail.com" for n in names[:20])
    yield from (f"{n}+list@mail.{n}.co.uk" for n in names[20:40])
    yield from (f"{n}_7@{n}-{n}.org" for n in names[40:])


def addresses():
    for _ in range(40):
        yield ".".join(str(GENERATOR.randrange(11, 99)) for _ in range(4))
    yield from ("2a00:1450:4001:81b::200e", "2606:4700:4700::1111", "8.8.8.8", "193.99.144.80")


def phones():
    for _ in range(20):
        a, b, c = (GENERATOR.randrange(201, 989) for _ in range(3))
        yield from (f"({a}) {b}-{c}4", f"{a}-{b}-{c}7", f"+1 {a} {b} {c}1", f"+44 20 7{a} {c}2")
        yield f"+49 30 {a}{b}1"
        yield f"139{a}{b}42"


def tokens():
    for _ in range(12):
        yield "AKIA" + drawn(UPPER, 16)
        yield "ghp_" + drawn(ALNUM, 36)
        yield "glpat-" + drawn(ALNUM, 20)
        yield "AIza" + drawn(ALNUM, 35)
        yield "sk-" + drawn(ALNUM, 48)
        yield "sk_live_" + drawn(ALNUM, 24)
        yield "hf_" + drawn(string.ascii_letters, 34)
        yield "npm_" + drawn(ALNUM, 36)
        yield f"xoxb-{drawn(string.digits, 12)}-{drawn(ALNUM, 24)}"
        yield f"eyJ{drawn(ALNUM, 30)}.eyJ{drawn(ALNUM, 60)}.{drawn(ALNUM, 43)}"


def named_secrets():
    for _ in range(20):
        yield drawn(ALNUM, 32), 'api_key = "{}"'
        yield drawn(HEXADECIMAL, 40), "SECRET_KEY={}"
        yield drawn(ALNUM, 24), '"access_token": "{}"'
        yield drawn(ALNUM, 20), "password: {}"


HARMLESS_PII = """user@example.com|git@localhost|version 8.8.8.8|127.0.0.1|192.168.1.7|10.0.0.1
v1.2.3.4|std::vector|12:30:45|2026-11-28|0.0.0.0|1.2.3.4.5|3.141592653589793|1,000,000,000
00000000-0000-0000-0000-000000000000|@decorator|a@b|x @ y.T|ISBN 978-3-16-148410-0|1234-5678
rows[::2]|x[a::8]|abc::def
2001:db8::1|fe80::1|000-000-0000|#4111111111|1 000 000 000 000|if x @ weights.shape
10.1145/3292500.3330701|300 x 200 - 4000""".replace("\n", "|").split("|")
HARMLESS_SECRETS = (
    """AKIAIOSFODNN7EXAMPLE|api_key = os.environ['API_KEY_FOR_SERVICE']
password: changeme|token = tokenizer.decode(next_token_id)|secret_key: your_secret_key_1234
key = value|api_key = 'xxxxxxxxxxxxxxxxxxxx'|password = get_password_from_keyring_2()|sk-learn
token: CancellationTokenSource2|key: some-ordinary-name-of-a-key-2|hf_hub_download
key = "0b64f8a5-6c1d-4c0c-9a53-9d1fd4b6a1d7"
https://user:password@host/|sha256 = 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c
-----BEGIN PUBLIC KEY-----|primary_key=first_column_name_1|token_type_embeddings_v2
""".strip()
    .replace("\n", "|")
    .split("|")
)


def measured(name, planted, harmless):
    """Precision and recall; each planted value and each harmless one in a text of its own."""
    found = operator(name)
    texts = [f"{prose(i, 2)} Write {form.format(value)} then. {prose(i + 1, 2)}"
             for i, (value, form) in enumerate(planted)]  # fmt: skip
    documents = made(*texts)
    decisions = found.decide(documents, found.score(documents))
    hits = sum(
        d.text is not None and value not in d.text
        for d, (value, _) in zip(decisions, planted, strict=True)
    )
    whole = made(*[f"{prose(i, 2)} And {text} too." for i, text in enumerate(harmless)])
    wrong = [
        document.text
        for document, d in zip(whole, found.decide(whole, found.score(whole)), strict=True)
        if d.text is not None
    ]
    return hits / (hits + len(wrong)), hits / len(planted), wrong


@pytest.mark.parametrize("kind", [emails, addresses, phones])
def test_personal_data_is_found(kind):
    precision, recall, wrong = measured("pii", [(v, "{}") for v in kind()], HARMLESS_PII)
    assert not wrong
    assert precision == 1
    assert recall >= 0.98


def test_secrets_are_found():
    planted = [(value, "{}") for value in tokens()] + list(named_secrets())
    precision, recall, wrong = measured("secrets", planted, HARMLESS_SECRETS)
    assert not wrong
    assert precision == 1
    assert recall >= 0.98


def test_prose_and_code_are_left_alone():
    import deepseek.core.config as module

    with open(module.__file__, encoding="utf-8") as file:
        texts = [file.read(), *[prose(seed) for seed in range(10)]]
    for name in ("pii", "secrets"):
        found, documents = operator(name), made(*texts)
        assert all(d.text is None for d in found.decide(documents, found.score(documents)))


def test_findings_are_redacted_and_named():
    found = operator("pii")
    documents = made("Ask anna.b@mail.org, 8.8.8.8 or call (212) 555-0199; anna.b@mail.org.")
    scores = found.score(documents)
    decision = found.decide(documents, scores)[0]
    assert decision.text == "Ask <EMAIL>, <IP> or call <PHONE>; <EMAIL>."
    assert decision.edit == "2 email, 1 ip, 1 phone redacted"
    assert {name: values.tolist() for name, values in scores.items()} == {
        "email": [2.0], "ip": [1.0], "phone": [1.0]
    }  # fmt: skip
    strict = operator("pii", drop_from=4)
    assert strict.decide(documents, scores)[0].reason == "pii findings 4 are 4 or more"
    only = operator("pii", kinds=["ip"])
    assert only.decide(documents, only.score(documents))[0].edit == "1 ip redacted"


def test_a_private_key_goes_as_a_whole():
    body = "\n".join(drawn(ALNUM + "+/", 64) for _ in range(12))
    key = f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----"
    found = operator("secrets")
    documents = made(f"before\n{key}\nafter", "db at postgres://app:hunter2x@db.net/x")
    decisions = found.decide(documents, found.score(documents))
    assert decisions[0].text == "before\n<PRIVATE_KEY>\nafter"
    assert decisions[1].text == "db at postgres://app:<PASSWORD>@db.net/x"
