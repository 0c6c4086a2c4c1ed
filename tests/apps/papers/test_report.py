import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from deepseek.apps.documents.reader import read_document
from deepseek.apps.papers.analyse import analyse_paper

HOSTILE = '<script>alert(1)</script> [x](javascript:alert(2)) "quoted" & more'


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids, self.targets, self.tags, self.sources = [], [], set(), []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.add(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.targets += [values["href"]] if "href" in values else []
        self.sources += [values["src"]] if "src" in values else []


@pytest.fixture(scope="module")
def analysis(paper):
    from tests.apps.papers.conftest import RuleModel

    return analyse_paper(paper, RuleModel(), ["summary", "limitations", "experiment_flaws"])


@pytest.fixture
def hostile(analysis):
    task = analysis.tasks[0]
    finding = dataclasses.replace(task.findings[0], statement=HOSTILE, title=HOSTILE)
    tasks = (dataclasses.replace(task, findings=(finding,)),)
    return dataclasses.replace(analysis, title=HOSTILE, source=HOSTILE, tasks=tasks)


def parsed(html):
    links = Links()
    links.feed(html)
    return links


def test_each_quote_links_to_one_mark_in_the_text(analysis):
    links = parsed(analysis.to_html())
    assert links.targets
    assert len(set(links.ids)) == len(links.ids)
    reachable = [target for target in links.targets if target.removeprefix("#") in links.ids]
    assert len(reachable) >= 0.7 * len(links.targets)  # a sentence quoted twice has one mark


def test_html_is_self_contained_and_has_no_script(hostile, analysis):
    for report in (hostile, analysis):
        html = report.to_html()
        links = parsed(html)
        assert "script" not in links.tags
        assert all(source.startswith("data:") for source in links.sources)
        assert all(target.startswith("#") for target in links.targets)
        assert "http-equiv" in html


def test_markdown_shows_hostile_text_as_text(hostile):
    text = hostile.to_markdown()
    assert not re.search(r"(?<!\\)<script", text)
    assert not re.search(r"(?<!\\)\[x\\?\]\(", text)


def test_markdown_names_page_section_and_confidence(analysis):
    text = analysis.to_markdown()
    assert "page 1" in text
    assert re.search(r"confidence \d+%", text)
    assert str(analysis) == text


def test_json_has_everything_but_the_document(analysis):
    values = json.loads(analysis.to_json())
    assert values["document_id"] == analysis.document_id
    assert "document" not in values
    finding = values["tasks"][0]["findings"][0]
    assert finding["evidence"][0]["page"] == 1


@pytest.mark.weights
def test_a_pdf_shows_page_images_with_highlights(attention_paper, rules):
    analysis = analyse_paper(read_document(attention_paper), rules, ["method_innovation"])
    links = parsed(analysis.to_html())
    assert links.sources
    assert all(f"q{n}" in links.ids for n in range(len(links.targets)))
    moved = dataclasses.replace(analysis.document, id="0" * 64)  # another file by now
    text_only = parsed(dataclasses.replace(analysis, document=moved).to_html())
    assert not text_only.sources
    assert "mark" in text_only.tags
