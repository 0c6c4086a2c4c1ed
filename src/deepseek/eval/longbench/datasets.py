"""The 21 datasets of LongBench with their official prompts, answer lengths and metrics.

The prompts are those of the official `dataset2prompt.json` (MIT), its misprints included.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from deepseek.eval.longbench import metrics
from deepseek.eval.longbench.metrics import Metric

Language = Literal["english", "chinese", "code"]

PASSAGES = (
    "Answer the question based on the given passages. Only give me the answer and do not output"
    " any other words."
)
MULTI_HOP = (
    f"{PASSAGES}\n\nThe following are given passages.\n{{context}}\n\n{PASSAGES}\n\n"
    "Question: {input}\nAnswer:"
)
CONCISELY = (
    "asconcisely as you can, using a single phrase if possible. Do not provide any explanation."
)
ARTICLE = (
    "as concisely as you can, using a single phrase or sentence if possible. If the question cannot"
    ' be answered based on the information in the article, write "unanswerable". If the question'
    ' is a yes/no question, answer "yes", "no", or "unanswerable". Do not provide any explanation.'
)
COUNT = (
    "There are some paragraphs below sourced from Wikipedia. Some of them may be duplicates. Please"
    " carefully read these paragraphs and determine how many unique paragraphs there are after"
    " removing duplicates. In other words, how many non-repeating paragraphs are there in total?"
    "\n\n{context}\n\nPlease enter the final count of unique paragraphs after removing duplicates."
    " The output format should only contain the number, such as 1, 2, 3, and so on.\n\n"
    "The final answer is: "
)
RETRIEVAL = (
    "Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which"
    " paragraph the abstract is from.\n\n{context}\n\nThe following is an abstract.\n\n{input}\n\n"
    "Please enter the number of the paragraph that the abstract is from. The answer format must be"
    ' like "Paragraph 1", "Paragraph 2", etc.\n\nThe answer is: '
)
RETRIEVAL_ZH = (
    "以下是若干段落文字，以及其中一个段落的摘要。请确定给定的摘要出自哪一段。\n\n{context}\n\n"
    "下面是一个摘要\n\n{input}\n\n请输入摘要所属段落的编号。"
    '答案格式必须是"段落1"，"段落2"等格式\n\n答案是：'
)
MEETING = (
    "You are given a meeting transcript and a query containing a question or instruction. Answer"
    " the query in one or more sentences.\n\nTranscript:\n{context}\n\nNow, answer the query based"
    " on the above meeting transcript in one or more sentences.\n\nQuery: {input}\nAnswer:"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """One of the 21, as the official scripts ask and score it."""

    category: str
    """The part of the official tables that it is in."""
    language: Language
    prompt: str
    max_tokens: int
    """Tokens of the answer."""
    metric: Metric
    is_few_shot: bool = False
    """Its prompt is a list of examples to go on, which no chat template may interrupt."""
    first_line: bool = False
    """Only the first line of the answer counts."""


def _single(language: Language, prompt: str, max_tokens: int, metric: Metric) -> Dataset:
    return Dataset(
        category="single-document QA",
        language=language,
        prompt=prompt,
        max_tokens=max_tokens,
        metric=metric,
    )


def _multi(language: Language, prompt: str, max_tokens: int, metric: Metric) -> Dataset:
    return Dataset(
        category="multi-document QA",
        language=language,
        prompt=prompt,
        max_tokens=max_tokens,
        metric=metric,
    )


def _summary(language: Language, prompt: str, metric: Metric) -> Dataset:
    return Dataset(
        category="summarization", language=language, prompt=prompt, max_tokens=512, metric=metric
    )


def _few_shot(language: Language, prompt: str, max_tokens: int, metric: Metric) -> Dataset:
    return Dataset(
        category="few-shot learning",
        language=language,
        prompt=prompt,
        max_tokens=max_tokens,
        metric=metric,
        is_few_shot=True,
        first_line=True,
    )


def _synthetic(language: Language, prompt: str, metric: Metric) -> Dataset:
    return Dataset(
        category="synthetic", language=language, prompt=prompt, max_tokens=32, metric=metric
    )


def _code(prompt: str) -> Dataset:
    return Dataset(
        category="code completion",
        language="code",
        prompt=prompt,
        max_tokens=64,
        metric=metrics.code_sim,
        is_few_shot=True,
    )


DATASETS: Mapping[str, Dataset] = {
    "narrativeqa": _single(
        "english",
        "You are given a story, which can be either a novel or a movie script, and a question."
        f" Answer the question {CONCISELY}\n\nStory: {{context}}\n\nNow, answer the question based"
        f" on the story {CONCISELY}\n\nQuestion: {{input}}\n\nAnswer:",
        128,
        metrics.qa_f1,
    ),
    "qasper": _single(
        "english",
        f"You are given a scientific article and a question. Answer the question {ARTICLE}\n\n"
        "Article: {context}\n\n Answer the question based on the above article"
        f" {ARTICLE}\n\nQuestion: {{input}}\n\nAnswer:",
        128,
        metrics.qa_f1,
    ),
    "multifieldqa_en": _single(
        "english",
        "Read the following text and answer briefly.\n\n{context}\n\nNow, answer the following"
        " question based on the above text, only give me the answer and do not output any other"
        " words.\n\nQuestion: {input}\nAnswer:",
        64,
        metrics.qa_f1,
    ),
    "multifieldqa_zh": _single(
        "chinese",
        "阅读以下文字并用中文简短回答：\n\n{context}\n\n现在请基于上面的文章回答下面的问题，"
        "只告诉我答案，不要输出任何其他字词。\n\n问题：{input}\n回答：",
        64,
        metrics.qa_f1_zh,
    ),
    "hotpotqa": _multi("english", MULTI_HOP, 32, metrics.qa_f1),
    "2wikimqa": _multi("english", MULTI_HOP, 32, metrics.qa_f1),
    "musique": _multi("english", MULTI_HOP, 32, metrics.qa_f1),
    "dureader": _multi(
        "chinese",
        "请基于给定的文章回答下述问题。\n\n文章：{context}\n\n请基于上述文章回答下面的问题。\n\n"
        "问题：{input}\n回答：",
        128,
        metrics.rouge_zh,
    ),
    "gov_report": _summary(
        "english",
        "You are given a report by a government agency. Write a one-page summary of the report."
        "\n\nReport:\n{context}\n\nNow, write a one-page summary of the report.\n\nSummary:",
        metrics.rouge,
    ),
    "qmsum": _summary("english", MEETING, metrics.rouge),
    "multi_news": _summary(
        "english",
        "You are given several news passages. Write a one-page summary of all news. \n\nNews:\n"
        "{context}\n\nNow, write a one-page summary of all the news.\n\nSummary:",
        metrics.rouge,
    ),
    "vcsum": _summary(
        "chinese",
        "下面有一段会议记录，请你阅读后，写一段总结，总结会议的内容。\n会议记录：\n{context}\n\n"
        "会议总结：",
        metrics.rouge_zh,
    ),
    "trec": _few_shot(
        "english",
        "Please determine the type of the question below. Here are some examples of questions.\n\n"
        "{context}\n{input}",
        64,
        metrics.classification,
    ),
    "triviaqa": _few_shot(
        "english",
        "Answer the question based on the given passage. Only give me the answer and do not output"
        " any other words. The following are some examples.\n\n{context}\n\n{input}",
        32,
        metrics.qa_f1,
    ),
    "samsum": _few_shot(
        "english",
        "Summarize the dialogue into a few short sentences. The following are some examples.\n\n"
        "{context}\n\n{input}",
        128,
        metrics.rouge,
    ),
    "lsht": _few_shot(
        "chinese",
        "请判断给定新闻的类别，下面是一些例子。\n\n{context}\n{input}",
        64,
        metrics.classification,
    ),
    "passage_count": _synthetic("english", COUNT, metrics.count),
    "passage_retrieval_en": _synthetic("english", RETRIEVAL, metrics.retrieval),
    "passage_retrieval_zh": _synthetic("chinese", RETRIEVAL_ZH, metrics.retrieval_zh),
    "lcc": _code("Please complete the code given below. \n{context}Next line of code:\n"),
    "repobench-p": _code(
        "Please complete the code given below. \n{context}{input}Next line of code:\n"
    ),
}
"""By their official names, in the official order."""


def prompt_of(name: str, context: str, question: str) -> str:
    """The official prompt; braces inside the texts stay as they are."""
    return DATASETS[name].prompt.format(context=context, input=question)


def score_of(name: str, prediction: str, answers: list[str], classes: list[str]) -> float:
    """The official score of one answer, from 0 to 100: against the gold answer that it fits best.

    Args:
        name: The dataset.
        prediction: What the model wrote.
        answers: All gold answers.
        classes: All classes, for datasets that have them.
    """
    dataset = DATASETS[name]
    if dataset.first_line:
        prediction = prediction.lstrip("\n").split("\n")[0]
    shares = [dataset.metric(prediction, answer, classes) for answer in answers]
    return 100 * max(0.0, *shares) if shares else 0.0
