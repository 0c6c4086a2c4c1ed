"""Questions among documents."""

from random import Random

from deepseek.eval.ruler.documents import Corpus, Inquiry, document_recipe


def inquiry(number: int, topic: str = "") -> Inquiry:
    return Inquiry(
        question=f"What is {number}?",
        answers=(f"answer {number}",),
        passages=(f"Passage {number}.",),
        topic=topic,
    )


CORPUS = Corpus([inquiry(i, "even" if i % 2 == 0 else "odd") for i in range(12)])


def test_in_full() -> None:
    recipe = document_recipe(CORPUS, 3)
    filled = recipe.build(Random("s"), 2)
    ask = (
        "Answer the question based on the given documents. Only give me the answer and do not"
        " output any other words.\n\n"
    )
    assert filled.text == (
        f"{ask}The following are given documents.\n\nDocument 1:\nPassage 1.\n\nDocument 2:\n"
        f"Passage 3.\n\n{ask}Question: What is 3? Answer:"
    )
    assert filled.outputs == ("answer 3",)
    assert (recipe.least, recipe.max_tokens, recipe.match) == (1, 32, "part")


def documents(index: int, n_documents: int, seed: int = 0) -> list[str]:
    text = document_recipe(CORPUS, index).build(Random(seed), n_documents).text
    parts = text.split("Document ")[1:]
    assert [part.partition(":")[0] for part in parts] == [str(i + 1) for i in range(n_documents)]
    return [part.partition("\n")[2].partition("\n")[0] for part in parts]


def test_the_passage_is_there_then_those_of_its_topic_then_others() -> None:
    for seed in range(10):
        for n_documents in (1, 2, 6):
            found = documents(4, n_documents, seed)
            assert "Passage 4." in found
            assert len(set(found)) == n_documents
            assert all(int(text[8:-1]) % 2 == 0 for text in found)
        found = documents(4, 9, seed)
        assert len(set(found)) == 9
        assert {f"Passage {i}." for i in range(0, 12, 2)} <= set(found)


def test_more_documents_than_there_are_repeat() -> None:
    assert len(set(documents(0, 12))) == 12
    found = documents(0, 30)
    assert len(found) == 30
    assert set(found) == set(CORPUS.documents)


def test_several_passages_of_one_question() -> None:
    corpus = Corpus(
        [
            Inquiry(question="a?", answers=("a",), passages=("P1", "P2")),
            Inquiry(question="b?", answers=("b",), passages=("P2", "P3", "P4")),
        ]
    )
    recipe = document_recipe(corpus, 0)
    assert recipe.least == 2
    text = recipe.build(Random(0), 3).text
    assert "P1" in text
    assert "P2" in text
    assert text.count("Document ") == 3
    assert corpus.related(corpus.inquiries[0]) == []
