"""Six flaws that are put into papers by program, with the place where each stands.

What a plant looks for is written down here on its own, apart from what the detectors look for.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from deepseek.apps.documents.document import Document, Sentence, Span
from planting import Edit, edited, piece, place, without_sentence

PROSE = ("paragraph", "list")
CLAIMS = ("abstract", "introduction", "conclusion", "experiments", "results", "ablation")
EVALUATION = ("experiments", "results", "ablation")
WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Plant:
    """A document with one flaw."""

    kind: str
    document: Document
    spans: tuple[Span, ...]
    """Where it stands in `document`; empty if something is missing."""
    detail: str


# --- 1. no ablation ------------------------------------------------------------------------------

ABLATION = re.compile(r"\bablat|\bw/o\b", re.IGNORECASE)
ABLATION_TITLE = re.compile(r"ablat|component analysis|(effect|impact|contribution)s? of", re.I)
ABLATED_ROW = re.compile(r"\s*(w/o|without|no |[-–−] ?[A-Za-z]|\(-\)|remov)", re.IGNORECASE)


def no_ablation(document: Document, generator: random.Random) -> Plant | None:
    """Sections, paragraphs, captions, tables and table rows of the ablation study are taken out."""
    sections = {i for i, s in enumerate(document.sections) if ABLATION_TITLE.search(s.title)}
    blocks = {
        i
        for i, b in enumerate(document.blocks)
        if b.section in sections
        or (
            b.kind in (*PROSE, "caption", "heading", "footnote")
            and document.sections[b.section].role in EVALUATION
            and ABLATION.search(document.text_of(b))
        )
    }
    sentences = [
        s
        for s in document.sentences
        if ABLATION.search(document.text_of(s)) and document.section_of(s).role != "references"
    ]
    if not sections and not sentences:
        return None
    blocks |= {t.block for t in document.tables if t.caption in blocks}
    edits = [Edit(span) for i in blocks for span in document.blocks[i].spans]
    edits += [e for s in sentences for e in without_sentence(document, s)]
    edits += [
        Edit(_row_span(row))
        for table in document.tables
        for row in table.rows
        if ABLATED_ROW.match(row[0].text) and any("." in cell.text for cell in row)
    ]
    found = edited(document, edits, frozenset(sections))
    return Plant("no_ablation", found, (), f"{len(sections)} sections, {len(sentences)} sentences")


def _row_span(row: tuple) -> Span:  # type: ignore[type-arg]
    first, last = row[0].span, row[-1].span
    return Span(first.page, first.start, last.end)


# --- 2. few baselines ----------------------------------------------------------------------------

COMPARES = re.compile(
    r"baseline|outperform|compar(ed|ing|ison|es?) |state[- ]of[- ]the[- ]art|competi|existing"
    r"|\b(prior|previous) \w+|(better|worse|higher|lower) than",
    re.IGNORECASE,
)
OURS = re.compile(r"\b(our|ours|proposed|this work|this paper)\b", re.IGNORECASE)
NAME = re.compile(r"\b[A-Za-z]*[A-Z][A-Za-z]*[A-Z][\w-]*")


def few_baselines(document: Document, generator: random.Random) -> Plant | None:
    """Every row of another system and every sentence that compares is taken out."""
    names = _own_names(document)
    others: list[Span] = []
    removed: set[str] = set()
    own = 0
    for table in document.tables:
        if document.sections[document.blocks[table.block].section].role not in EVALUATION:
            continue
        for row in table.rows:
            label = row[0].text
            is_result = any("." in c.text and any(x.isdigit() for x in c.text) for c in row)
            if not is_result or not re.search(r"[A-Za-z]{2}", label):
                continue
            if OURS.search(label) or any(name in names for name in NAME.findall(label)):
                own += 1
            else:
                others.append(_row_span(row))
                removed.update(name for name in NAME.findall(label) if name not in names)
    if not own or len(others) < 3:
        return None
    edits = [Edit(span) for span in others]
    for sentence in document.sentences:
        role = document.section_of(sentence).role
        if role in (*EVALUATION, "abstract") and document.kind_of(sentence) in (*PROSE, "caption"):
            text = document.text_of(sentence)
            if COMPARES.search(text) or removed & set(NAME.findall(text)):
                edits += without_sentence(document, sentence)
    return Plant("few_baselines", edited(document, edits), (), f"{own} own, {len(others)} others")


def _own_names(document: Document) -> set[str]:
    """Names of the title and those that stand after "we propose", "called" … in the abstract."""
    names = set(NAME.findall(document.title.partition(":")[0])) if ":" in document.title else set()
    for sentence in document.sentences:
        if document.section_of(sentence).role in ("abstract", "introduction", "conclusion"):
            text = document.text_of(sentence)
            for match in re.finditer(
                r"\b(we|paper) (propose|present|introduce)|called|named", text
            ):
                names.update(NAME.findall(text[match.end() : match.end() + 90])[:1])
    counts = Counter(NAME.findall(" ".join(p.text for p in document.pages)))
    return {name for name in names if counts[name] >= 5}


# --- 3. a number changed -------------------------------------------------------------------------

DECIMAL = re.compile(r"(?<![\w.,/±])\d{1,3}\.\d{1,4}(?![\w.]\d|\d|\s*(?:et al|×|x\b))")
NO_RESULT = re.compile(
    r"dropout|learning rate|momentum|hyper-?param|initial|threshold|batch|\bsections?\b|version|§"
    r"|regulari[sz]|chosen from|kappa|agreement",
    re.IGNORECASE,
)
IS_RESULT = re.compile(
    r"accura|\bF-?1\b|F-?(score|measure)|score|BLEU|ROUGE|METEOR|\bEM\b|exact match|\bMAP\b|MRR"
    r"|NDCG"
    r"|\b[LU]AS\b|error rate|\b[WC]ER\b|perplexity|perform|outperform|achiev|improv|\bresults?\b"
    r"|precision|recall|AUC|correlation|gain|better",
    re.IGNORECASE,
)


def number_changed(document: Document, generator: random.Random) -> Plant | None:
    """A number that text and one table cell share is changed in one of the two places."""
    cells: dict[str, list[Span]] = {}
    for table in document.tables:
        for row in table.rows:
            for cell in row:
                for match in DECIMAL.finditer(cell.text):
                    start = cell.span.start + match.start()
                    span = Span(cell.span.page, start, start + len(match.group()))
                    cells.setdefault(match.group(), []).append(span)
    cited: dict[str, list[tuple[Sentence, Span]]] = {}
    for sentence, text in _claims(document):
        if NO_RESULT.search(text) or not IS_RESULT.search(text):
            continue
        for match in DECIMAL.finditer(text):
            span = piece(sentence, match.start(), match.end())
            if span and len(cells.get(match.group(), ())) == 1:
                cited.setdefault(match.group(), []).append((sentence, span))
    if not cited:
        return None
    written = generator.choice(sorted(cited))
    false = misprint(written, generator)
    mentions, cell = cited[written], cells[written][0]
    if generator.random() < 0.5:
        edits, others = [Edit(cell, false)], [s for sentence, _ in mentions for s in sentence.spans]
    else:
        sentence, span = generator.choice(mentions)
        edits, others = [Edit(span, false)], [cell, *sentence.spans]
    where = "table" if edits[0].span == cell else "text"
    spans = place(document, edits, others)
    return Plant("number", edited(document, edits), spans, f"{written} -> {false} in the {where}")


def misprint(written: str, generator: random.Random) -> str:
    """A number as a slip or an old version of the table would have it."""
    decimals = len(written.partition(".")[2])
    while True:
        way = generator.random()
        if way < 0.4:  # another digit
            at = generator.choice([i for i, c in enumerate(written) if c.isdigit()])
            false = written[:at] + generator.choice("123456789") + written[at + 1 :]
        elif way < 0.6 and len(written) > 3:  # two digits swapped
            digits = [i for i, c in enumerate(written) if c.isdigit()]
            at = generator.randrange(len(digits) - 1)
            i, j = digits[at], digits[at + 1]
            false = written[:i] + written[j] + written[i + 1 : j] + written[i] + written[j + 1 :]
        else:  # results of an earlier run
            value = float(written)
            shift = generator.uniform(0.005, 0.06) * max(value, 10.0**-decimals * 20)
            false = f"{value + generator.choice([-1, 1]) * shift:.{decimals}f}"
        if false != written and float(false) > 0:
            return false


def _claims(document: Document) -> Iterator[tuple[Sentence, str]]:
    for sentence in document.sentences:
        if document.section_of(sentence).role in CLAIMS and document.kind_of(sentence) in PROSE:
            text = document.text_of(sentence)
            words = WORD.findall(text)
            if len(words) >= 6 and sum(w[0].isdigit() for w in words) < 0.35 * len(words):
                yield sentence, text


# --- 4. no variance ------------------------------------------------------------------------------

SPREAD = re.compile(
    r"±|standard (deviation|error)s?|\bstd\b|\bs\.d\.|significance|statistical(ly)? significan"
    r"|statistically (better|different)|\bp ?[<≤] ?0?\.\d|\bp ?= ?0?\.0|p-value|\bt-test|McNemar"
    r"|wilcoxon|bootstrap|confidence (interval|level)|random(ly)? (seeds|restarts?|initiali[sz]"
    r"ations)"
    r"|different seeds|(two|three|five|ten|\d+) (random )?(runs|trials)\b|fold cross[- ]valid"
    r"|(over|of|different|multiple|several|independent) (\w+ )?runs\b"
    r"|averaged? over (\w+ )?(runs|trials|folds|times|seeds)"
    r"|\b(run|ran|repeat\w*|train\w*) (\w+ ){0,3}(\d+|two|three|five|ten|several|multiple) times"
    r"|variances? of (the|our) (result|score|perf)",
    re.IGNORECASE,
)
NO_SPREAD = re.compile(r"initiali[sz]ed|gaussian|\bnoise\b", re.IGNORECASE)
PLUS_MINUS = re.compile(r"\s?(±|\+/-)\s?[\d.]+%?")


def no_variance(document: Document, generator: random.Random) -> Plant | None:
    """Every ±, deviation, seed and test is taken out."""
    edits = []
    for sentence in document.sentences:
        role = document.section_of(sentence).role
        text = document.text_of(sentence)
        if role in ("references", "related", "front"):
            continue
        if NO_SPREAD.search(text):
            continue
        if SPREAD.search(PLUS_MINUS.sub("", text)):  # a mere ± goes without its sentence
            edits += without_sentence(document, sentence)
    signs = [
        Edit(Span(page.number, match.start(), match.end()))
        for page in document.pages
        for match in PLUS_MINUS.finditer(page.text)
    ]
    if not edits and len(signs) < 2:
        return None
    detail = f"{len(edits)} sentences, {len(signs)} signs"
    return Plant("no_variance", edited(document, edits + signs), (), detail)


# --- 5. a claim inflated -------------------------------------------------------------------------

GAIN = re.compile(
    r"\bby (?:(?:an? )?(?:absolute|relative|average|margin|of|over|about|around|more than|nearly"
    r"|up to|almost|approximately)\s)*(?P<a>\d{1,2}(?:\.\d{1,2})?)(?=\s?(?:%|points?|percent|BLEU"
    r"|F1|ROUGE|absolute|relative|LAS|accuracy))"
    r"|(?P<b>\d{1,2}(?:\.\d{1,2})?)(?=\s?(?:%|points?|percent)(?: \w+)? (?:improve|gain|higher"
    r"|better|increase|absolute|relative))"
)
MODEST = (
    (re.compile(r"\b(comparable|competitive|similar) (?P<noun>results?|performances?|accuracy"
                r"|scores?) (to|with|as|against)\b"), "{sure} better {noun} than {all}"),
    (re.compile(r"\bperforms? (comparably|similarly|competitively|on par) (to|with)\b"),
     "{sure} outperforms {all}"),
    (re.compile(r"\b(slightly|marginally) (better|worse) than\b"), "{sure} better than {all}"),
    (re.compile(r"\b(slightly|marginally) (?P<verb>(outperform|improve)s?)\b"), "{sure} {verb}"),
    (re.compile(r"\boutperforms? (the |our |a )?(strong |previous )?(?P<noun>baseline|model"
                r"|method)s?\b"),
     "{sure} outperforms {all} {noun}s"),
)  # fmt: skip
SURE = (
    "significantly",
    "substantially",
    "consistently",
    "dramatically",
    "clearly",
    "significantly",
)
ALL = ("all", "all existing", "all previous", "any of", "every one of", "all of")


def claim_inflated(document: Document, generator: random.Random) -> Plant | None:
    """A gain is multiplied by 3 or 10, or a modest comparison becomes a sweeping one."""
    gains: list[tuple[Sentence, Span, str]] = []
    modest: list[tuple[Sentence, Span, str]] = []
    for sentence, text in _claims(document):
        if NO_RESULT.search(text):
            continue
        for match in GAIN.finditer(text):
            group = "a" if match["a"] else "b"
            span = piece(sentence, match.start(group), match.end(group))
            if span and (false := _multiplied(match[group], generator)):
                gains.append((sentence, span, false))
        for pattern, template in MODEST:
            for match in pattern.finditer(text):
                span = piece(sentence, match.start(), match.end())
                if span:
                    words = {"sure": generator.choice(SURE), "all": generator.choice(ALL)}
                    modest.append((sentence, span, template.format(**words, **match.groupdict())))
    pool = [kind for kind in (gains, modest) if kind]
    if not pool:
        return None
    sentence, span, false = generator.choice(generator.choice(pool))
    true = document.quote((span,))
    edits = [Edit(span, false)]
    spans = place(document, edits, sentence.spans)
    return Plant("claim", edited(document, edits), spans, f"{true!r} -> {false!r}")


def _multiplied(written: str, generator: random.Random) -> str | None:
    factor = generator.choice([3, 10])
    value = float(written) * factor
    if not float(written) >= 0.5 or value > 95:
        return None
    if factor == 10:
        return f"{value:.0f}" if value == round(value) else f"{value:.1f}"
    return f"{value:.{len(written.partition('.')[2])}f}"


# --- 6. a metric renamed -------------------------------------------------------------------------

RENAMED = (
    (
        r"(?<![-\w])(?:F1(?:[- ]scores?)?|F-?(?:score|measure)|F-1)\b",
        ("accuracy", "AUC", "precision"),
    ),
    (r"\baccuracy\b", ("F1", "precision", "recall")),
    (r"\bBLEU(?:-4)?\b", ("ROUGE", "METEOR")),
    (r"\bROUGE(?:-[12L])?\b", ("BLEU", "METEOR")),
    (r"\bMAP\b", ("MRR", "NDCG")),
    (r"\bMRR\b", ("MAP", "NDCG")),
    (r"\bEM\b|\b[Ee]xact [Mm]atch\b", ("F1", "accuracy")),
    (r"\bLAS\b", ("F1", "accuracy")),
    (r"\bperplexity\b", ("accuracy", "BLEU")),
    (r"\b(?:word )?error rate\b|\bWER\b", ("accuracy",)),
)


def metric_renamed(document: Document, generator: random.Random) -> Plant | None:
    """In one sentence that gives a result, the metric gets another name."""
    found: list[tuple[Sentence, Span, str]] = []
    for sentence, text in _claims(document):
        if NO_RESULT.search(text) or not DECIMAL.search(text):
            continue
        for pattern, names in RENAMED:
            for match in re.finditer(pattern, text):
                near = text[max(0, match.start() - 40) : match.end() + 40]
                span = piece(sentence, match.start(), match.end())
                if span and DECIMAL.search(near):
                    found.append((sentence, span, generator.choice(names)))
    if not found:
        return None
    sentence, span, false = generator.choice(found)
    edits = [Edit(span, false)]
    spans = place(document, edits, sentence.spans)
    detail = f"{document.quote((span,))} -> {false}"
    return Plant("metric", edited(document, edits), spans, detail)


PLANTS: dict[str, Callable[[Document, random.Random], Plant | None]] = {
    "no_ablation": no_ablation,
    "few_baselines": few_baselines,
    "number": number_changed,
    "no_variance": no_variance,
    "claim": claim_inflated,
    "metric": metric_renamed,
}
"""Every plant by the name under which it is reported."""

ACCEPTED: dict[str, tuple[str, ...]] = {
    "no_ablation": ("no_ablation",),
    "few_baselines": ("few_baselines",),
    "number": ("text_table_mismatch", "arithmetic", "inconsistent_numbers"),
    "no_variance": ("no_variance",),
    "claim": ("overclaim", "arithmetic"),
    "metric": ("metric_mismatch",),
}
"""Kinds of findings that count for each plant."""


def plants(document: Document, seed: str, kinds: Collection[str] = ()) -> Iterator[Plant]:
    """Every plant that the document has room for, one flaw in each; of some kinds only."""
    for name, plant in PLANTS.items():
        if kinds and name not in kinds:
            continue
        result = plant(document, random.Random(f"{seed} {name}"))
        if result is not None:
            yield result


__all__ = ["ACCEPTED", "PLANTS", "Plant", "plants"]
