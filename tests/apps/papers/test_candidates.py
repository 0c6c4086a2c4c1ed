from deepseek.apps.papers.candidates import Outlook, bm25, content_words, rank_candidates
from deepseek.apps.papers.tasks import builtin_tasks, question_task


def facet(task, kind):
    return next(f for f in builtin_tasks()[task].facets if f.kind == kind)


def best(paper, task, kind):
    outlook = Outlook(paper)
    chosen = facet(task, kind)
    ranked = rank_candidates(outlook, chosen, chosen.ask["en"])
    return [outlook.texts[i] for i, _ in ranked]


def test_facets_find_their_sentences(paper):
    assert "introduce the Gated Sparse Reader" in best(paper, "method_innovation", "idea")[0]
    assert best(paper, "limitations", "stated_limitation")[0].startswith("A limitation of our")
    assert "learning rate" in best(paper, "reproducibility", "hyper_parameters")[0]
    assert "https://example.org" in best(paper, "reproducibility", "code")[0]
    assert "LongQA dataset" in best(paper, "datasets_and_metrics", "dataset")[0]


def test_a_question_ranks_by_its_words(paper):
    outlook = Outlook(paper)
    task = question_task("Which GPU was used for training?")
    ranked = rank_candidates(outlook, task.facets[0], task.facets[0].ask["en"])
    assert "V100" in outlook.texts[ranked[0][0]]


def test_references_are_never_candidates(paper):
    outlook = Outlook(paper)
    for task in builtin_tasks().values():
        for part in task.facets:
            for index, _ in rank_candidates(outlook, part, part.ask["en"]):
                assert paper.section_of(paper.sentences[index]).role != "references"


def test_candidates_are_few_and_sorted(paper):
    outlook = Outlook(paper)
    part = facet("method_innovation", "component")
    scores = [score for _, score in rank_candidates(outlook, part, part.ask["en"])]
    assert scores == sorted(scores, reverse=True)
    assert 0 < len(scores) <= part.max_candidates


def test_content_words_drop_endings_and_pair_chinese():
    assert content_words("The gates scored blocks") == content_words("a gate scores the block")
    assert len(content_words("The gates scored blocks")) == 3
    assert content_words("提出模型") == ["提出", "出模", "模型"]


def test_bm25_prefers_rare_words_and_short_texts():
    texts = [["gate", "model"], ["model", "model", "data"], ["data"] * 20 + ["gate"]]
    scores = bm25(texts, ["gate"])
    assert scores[0] > scores[2] > scores[1] == 0
