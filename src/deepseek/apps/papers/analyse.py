"""`analyse_paper`: candidates by code, judged and worded by a model, quoted by code.

For each facet of a task: a cheap score picks candidate sentences; the model judges each by
the probability of Yes; the best become findings, with what says the same elsewhere as further
evidence; the model words a statement, which is dropped for the quote if it says more than the
evidence. The model never writes a quote: it sees sentences, and code prints them by their spans.
Only sentences are read, one at a time, so that a paper may be longer than the context window.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from deepseek.apps.documents.document import Document
from deepseek.apps.papers.analysis import Finding, PaperAnalysis, TaskResult
from deepseek.apps.papers.candidates import Outlook, rank_candidates
from deepseek.apps.papers.experiment_flaws import FlawReview
from deepseek.apps.papers.extraction import FacetSearch
from deepseek.apps.papers.judge import Judge
from deepseek.apps.papers.tasks import FLAWS, Task, resolve_tasks
from deepseek.apps.papers.writer import Writer
from deepseek.core.errors import ConfigError
from deepseek.core.llm import LanguageModel

NOTHING = {
    "en": "Nothing was found that answers this with sufficient confidence.",
    "zh": "没有找到足够可信的回答。",
}
NO_PAPER = {
    "en": "this does not look like a research paper: no abstract and no references found",
    "zh": "本文不像研究论文：没有找到摘要和参考文献",
}
NO_EXPERIMENTS = {
    "en": "No section with experiments or results was found in this document.",
    "zh": "未在本文中找到实验或结果章节。",
}
OUT_OF_TIME = {
    "en": "The time limit was reached before this task was finished.",
    "zh": "达到时间上限，此任务未完成。",
}


@dataclass(frozen=True, slots=True)
class AnalysisProgress:
    """What is being done, and how many model calls are done of all."""

    step: str
    done: int
    total: int


@dataclass(slots=True)
class _Clock:
    """Counts the model's calls for progress, and the seconds for the time limit."""

    total: int
    on_progress: Callable[[AnalysisProgress], None] | None
    time_limit: float | None
    step: str = ""
    done: int = 0
    start: float = field(default_factory=time.perf_counter)

    def tick(self, calls: int = 1) -> None:
        self.done = min(self.done + calls, self.total)
        self.show()

    def show(self) -> None:
        if self.on_progress:
            self.on_progress(AnalysisProgress(self.step, self.done, self.total))

    def is_over(self) -> bool:
        return self.time_limit is not None and time.perf_counter() - self.start > self.time_limit


def analyse_paper(
    document: Document,
    model: LanguageModel,
    tasks: Sequence[str | Task],
    *,
    extra_tasks: Mapping[str, Task] | None = None,
    seed: int = 0,
    time_limit: float | None = None,
    on_progress: Callable[[AnalysisProgress], None] | None = None,
    on_finding: Callable[[Finding], None] | None = None,
) -> PaperAnalysis:
    """Answer tasks about a document that was read.

    Args:
        document: The paper.
        model: Who judges and words.
        tasks: Names of tasks, `Task` objects, or free questions ending in `?`.
        extra_tasks: Tasks of the user, by name.
        seed: Given to the model; same paper, tasks and seed: same report.
        time_limit: Seconds after which what was found so far is returned.
        on_progress: Told before and after each call of the model.
        on_finding: Told of each finding as soon as it is there.

    Raises:
        ConfigError: A task is unknown or the time limit is not positive.
    """
    if time_limit is not None and time_limit <= 0:
        raise ConfigError(f"the time limit is {time_limit}", "give seconds above 0")
    resolved = resolve_tasks(tasks, extra_tasks)
    start = time.perf_counter()
    language = document.language
    outlook = Outlook(document)
    judge = Judge(model, document.title, language)
    search = FacetSearch(outlook, judge, Writer(model, document.title, language, seed))
    review = FlawReview(outlook, judge) if any(t.name == FLAWS for t in resolved) else None
    clock = _Clock(_calls(outlook, resolved, review), on_progress, time_limit)
    timings = {"candidates": time.perf_counter() - start}
    results = []
    for task in resolved:
        begin = time.perf_counter()
        clock.step = task.title[language]
        clock.show()
        if task.name == FLAWS and review is not None:
            findings = review.findings(clock.tick, clock.is_over)
        else:
            findings = search.findings(task, clock.tick, clock.is_over)
        kept = []
        for finding in findings:
            kept.append(finding)
            if on_finding:
                on_finding(finding)
        note = ""
        if clock.is_over():
            note = OUT_OF_TIME[language]
        elif not kept:
            about_experiments = task.name == FLAWS or all(f.evaluation for f in task.facets)
            none = about_experiments and not outlook.has_evaluation
            note = NO_EXPERIMENTS[language] if none else NOTHING[language]
        results.append(
            TaskResult(task=task.name, title=clock.step, findings=tuple(kept), note=note)
        )
        timings[task.name] = time.perf_counter() - begin
    timings["total"] = time.perf_counter() - start
    return PaperAnalysis(
        title=document.title,
        source=document.source,
        document_id=document.id,
        n_pages=len(document.pages),
        language=language,
        model=model.name,
        tasks=tuple(results),
        sections=tuple((s.title, s.role, s.page) for s in document.sections if s.title),
        warnings=document.warnings + (() if outlook.is_paper else (NO_PAPER[language],)),
        timings=timings,
        settings={"seed": seed, "time_limit": time_limit},
        document=document,
    )


def _calls(outlook: Outlook, tasks: Sequence[Task], review: FlawReview | None) -> int:
    """Calls of the model that the tasks will take at most."""
    language = outlook.document.language
    total = review.n_calls if review is not None else 0
    for task in tasks:
        for facet in task.facets:
            n_candidates = len(rank_candidates(outlook, facet, facet.ask[language]))
            total += n_candidates + min(facet.max_findings, n_candidates) + 1
    return max(total, 1)
