"""Each flaw put into a small paper is found there, and not in the paper as it was."""

from pathlib import Path

import pytest
from paper_text import PARTS, paper

from deepseek.apps.documents.document import Document
from deepseek.apps.papers.flaws import DETECTORS, Flaw, detector, find_flaws
from deepseek.apps.papers.flaws.paper import PaperView
from deepseek.apps.papers.flaws.suspicion import weights


def kinds(document: Document, at_least: float = 0.4) -> list[str]:
    return [flaw.kind for flaw in find_flaws(document) if flaw.confidence >= at_least]


def only(document: Document, kind: str) -> Flaw:
    found = [flaw for flaw in find_flaws(document) if flaw.kind == kind]
    assert len(found) == 1, [f.statement for f in found]
    return found[0]


def changed(part: str, old: str, new: str) -> dict[str, str]:
    assert PARTS[part].count(old) >= 1
    return {part: PARTS[part].replace(old, new)}


def test_a_sound_paper_has_no_flaws(tmp_path: Path) -> None:
    assert kinds(paper(tmp_path)) == []


def test_evidence_is_verbatim_and_statements_name_numbers(tmp_path: Path) -> None:
    document = paper(tmp_path, **changed("main", "accuracy of 91.4 on", "accuracy of 94.1 on"))
    flaw = only(document, "text_table_mismatch")
    assert flaw.confidence >= 0.4
    assert "94.1" in document.quote(flaw.evidence[0])
    assert "94.1" in flaw.statement
    assert "91.4" in flaw.statement
    assert "Table 1" in flaw.statement
    assert "ZipNet" in document.quote(flaw.evidence[1])
    assert flaw.question
    assert not flaw.is_certain


def test_a_changed_cell_is_found_from_the_text(tmp_path: Path) -> None:
    document = paper(tmp_path, **changed("table", "88.2", "83.2"))
    quotes = [document.quote(q) for f in find_flaws(document) for q in f.evidence]
    assert any("On Webbank ZipNet has an accuracy of 88.2" in quote for quote in quotes)
    assert any("83.2" in quote for quote in quotes)


@pytest.mark.parametrize("word", ["ablation", "leave-out"])
def test_missing_ablation(tmp_path: Path, word: str) -> None:
    assert "no_ablation" in kinds(paper(tmp_path, ablation="## 5 Speed\n\nZipNet is fast."))
    study = PARTS["ablation"] if word == "ablation" else (
        "## 5 What the gate does\n\nThe effect of each part is shown here. Removing the gate "
        "lowers the accuracy to 90.2. Without the memory it drops to 89.7. Replacing both "
        "hurts, and we see 88.1.\n\n| Variant | Accuracy |\n|---|---|\n| without gate | 90.2 |\n"
        "| without memory | 89.7 |\n| without both | 88.1 |"
    )  # fmt: skip
    assert "no_ablation" not in kinds(paper(tmp_path, ablation=study))


def test_missing_ablation_says_where_it_looked(tmp_path: Path) -> None:
    flaw = only(paper(tmp_path, ablation="## 5 Speed\n\nIt is fast."), "no_ablation")
    assert "w/o" in flaw.searched
    assert "sentences" in flaw.searched
    assert flaw.question


@pytest.mark.parametrize(
    "sentence",
    [
        "We report the standard deviation.",
        "The gain is significant (p < 0.01).",
        "± is over folds.",
    ],
)
def test_missing_variance(tmp_path: Path, sentence: str) -> None:
    seeds = "All results are averaged over five runs with different seeds."
    assert "no_variance" in kinds(paper(tmp_path, **changed("setup", seeds, "")))
    assert "no_variance" not in kinds(paper(tmp_path, **changed("setup", seeds, sentence)))


def test_few_baselines(tmp_path: Path) -> None:
    own = PARTS["table"].replace("\n| SlowNet (Mori, 2014) | 88.9 | 85.3 | 87.1 |", "")
    own = own.replace("\n| GraphOne (Lee, 2015) | 89.6 | 87.0 | 88.3 |", "")
    own = own.replace("\n| StackTwo (Roy, 2016) | 90.1 | 86.5 | 88.3 |", "")
    alone = (
        "ZipNet reaches an accuracy of 91.4 on Treebank. It has 88.2 on Webbank. Long sentences "
        "are harder. Short ones are easy. Most errors are in lists. Some are in names."
    )
    flaw = only(paper(tmp_path, main=alone, table=own), "few_baselines")
    assert "ZipNet (ours)" in flaw.statement
    assert "few_baselines" not in kinds(paper(tmp_path))


def test_average_column_is_recomputed(tmp_path: Path) -> None:
    flaw = only(paper(tmp_path, **changed("table", "89.8", "90.8")), "arithmetic")
    assert flaw.is_certain
    assert "90.8" in flaw.statement
    assert "89.8" in flaw.statement


@pytest.mark.parametrize(
    ("sentence", "is_wrong"),
    [
        ("The accuracy rises from 80.0 to 84.0, by 4 points.", False),
        ("The accuracy rises from 80.0 to 84.0, a relative improvement of 5 %.", False),
        ("The accuracy rises from 80.0 to 84.0, an error reduction of 20 %.", False),
        ("The accuracy rises from 80.0 to 84.0, by 14 points.", True),
        ("The accuracy rises from 80.0 to 84.0, a relative improvement of 12 %.", True),
    ],
)
def test_differences_in_one_sentence(tmp_path: Path, sentence: str, is_wrong: bool) -> None:
    document = paper(tmp_path, main=f"{PARTS['main']} {sentence}")
    certain = [f for f in find_flaws(document) if f.kind == "arithmetic" and f.is_certain]
    assert bool(certain) == is_wrong
    if is_wrong:
        assert document.quote(certain[0].evidence[0]) == sentence


def test_sweeping_claims(tmp_path: Path) -> None:
    seeds = changed("setup", "All results are averaged over five runs with different seeds.", "")
    claim = "ZipNet significantly outperforms all existing parsers on both data sets."
    document = paper(tmp_path, main=f"{PARTS['main']} {claim}", **seeds)
    flaw = only(document, "overclaim")
    assert document.quote(flaw.evidence[0]) == claim
    assert "significance test" in flaw.statement


def test_renamed_metric(tmp_path: Path) -> None:
    document = paper(tmp_path, **changed("abstract", "an accuracy of 91.4", "an F1 score of 91.4"))
    flaw = only(document, "metric_mismatch")
    assert "F1" in flaw.statement
    assert "accuracy" in flaw.statement
    assert "F1 score of 91.4" in document.quote(flaw.evidence[0])


def test_counts_stated_twice(tmp_path: Path) -> None:
    document = paper(tmp_path, **changed("conclusion", "39,832", "38,932"))
    flaw = only(document, "inconsistent_numbers")
    assert "39,832" in flaw.statement
    assert "38,932" in flaw.statement


def test_limitations_and_reproducibility(tmp_path: Path) -> None:
    bare = "ZipNet is a fast parser. It reads a sentence once. It needs 39,832 sentences."
    padding = " ".join(f"Point {word} is plain." for word in "one two six ten big red low".split())
    method = f"{PARTS['method']} {padding} {padding}"
    assert "missing_limitations" in kinds(paper(tmp_path, conclusion=bare, method=method))
    assert "missing_limitations" not in kinds(paper(tmp_path, method=method))
    setup = "We train on 39,832 sentences of the two data sets. We use five runs. Accuracy is used."
    assert "no_code_or_hyperparameters" in kinds(paper(tmp_path, setup=setup, method=method))
    assert "no_code_or_hyperparameters" not in kinds(paper(tmp_path, method=method))


def test_one_data_set(tmp_path: Path) -> None:
    text = "ZipNet is tested on the Treebank data set. The Treebank data set is large."
    document = paper(
        tmp_path, abstract=text, introduction="We propose ZipNet.", setup=text, main="It is good."
    )
    assert "single_dataset" in kinds(document)
    assert "single_dataset" not in kinds(paper(tmp_path))


def test_empty_and_short_texts_have_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One sentence only.")
    from deepseek.apps.documents.reader import read_document

    assert find_flaws(read_document(tmp_path / "a.txt")) == []


def test_users_can_add_a_detector(tmp_path: Path) -> None:
    @detector("test_only")
    def shout(view: PaperView) -> list[Flaw]:
        lines = view.matching("gate", view.prose)
        return [
            Flaw(kind="gate", severity="info", statement="!", confidence=0.99,
                 evidence=(next(lines).sentence.spans,))
        ]  # fmt: skip

    try:
        assert find_flaws(paper(tmp_path))[0].kind == "gate"
        with pytest.raises(ValueError, match="exists already"):
            detector("test_only")(shout)
    finally:
        del DETECTORS["test_only"]


def test_every_weight_belongs_to_a_feature() -> None:
    assert set(weights()) == {"number", "gain", "sweep", "metric"}
    assert all("bias" in group for group in weights().values())
