"""`analyse_paper`: candidates by code, judged and worded by a model, quoted by code.

Sentence by sentence: for each facet of a task a cheap score picks candidates; the model judges each
by the probability of Yes; the best become findings, with what says the same elsewhere as further
evidence; the model words a statement, which is dropped for the quote if it says more than the
evidence. Then as a whole (`answers.py`): the paper is read once, and each facet's question follows
it. The two do not take turns, since the model's cache holds one beginning. The model never writes
a quote.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from deepseek.apps.documents.document import Document
from deepseek.apps.papers.analysis import Finding, PaperAnalysis, TaskResult, WholeReading
from deepseek.apps.papers.answers import N_CALLS, Answers
from deepseek.apps.papers.candidates import Outlook, rank_candidates
from deepseek.apps.papers.experiment_flaws import FlawReview
from deepseek.apps.papers.extraction import FacetSearch
from deepseek.apps.papers.joining import joined
from deepseek.apps.papers.judge import Judge
from deepseek.apps.papers.progress import AnalysisProgress, Clock, OutOfTime
from deepseek.apps.papers.reading import ReadMode, read_whole
from deepseek.apps.papers.tasks import FLAWS, Task, resolve_tasks
from deepseek.apps.papers.writer import Writer
from deepseek.core.errors import ConfigError
from deepseek.core.llm import LanguageModel, WatchedModel

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


def analyse_paper(
    document: Document,
    model: LanguageModel,
    tasks: Sequence[str | Task],
    *,
    extra_tasks: Mapping[str, Task] | None = None,
    read: ReadMode = "auto",
    seed: int = 0,
    time_limit: float | None = None,
    on_progress: Callable[[AnalysisProgress], None] | None = None,
    on_finding: Callable[[Finding], None] | None = None,
) -> PaperAnalysis:
    """Answer tasks about a document that was read.

    Args:
        document: The paper.
        model: Who judges and words.
        tasks: Names of tasks, `Task` objects, or free questions in several words.
        extra_tasks: Tasks of the user, by name.
        read: Whether the model sees single sentences only or also the paper as a whole; `auto`:
            as a whole if its context window holds that.
        seed: Given to the model; same paper, tasks and seed: same report.
        time_limit: Seconds after which what was found so far is returned.
        on_progress: Told before and after each call of the model, and while it reads the paper.
        on_finding: Told of each finding as soon as it is there.

    Raises:
        ConfigError: A task is unknown, the time limit is not positive, or the paper as a whole is
            wanted and does not fit.
    """
    if time_limit is not None and time_limit <= 0:
        raise ConfigError(f"the time limit is {time_limit}", "give seconds above 0")
    resolved = resolve_tasks(tasks, extra_tasks)
    clock = Clock(document.language, on_progress, time_limit)
    analysis = _Analysis(document, model, resolved, read, seed, clock, on_finding)
    return analysis.run({"seed": seed, "time_limit": time_limit, "read": read})


class _Analysis:
    """One analysis while it runs."""

    def __init__(
        self,
        document: Document,
        model: LanguageModel,
        tasks: Sequence[Task],
        read: ReadMode,
        seed: int,
        clock: Clock,
        on_finding: Callable[[Finding], None] | None,
    ) -> None:
        self.document, self.model, self.tasks, self.clock = document, model, tasks, clock
        self.on_finding, language = on_finding, document.language
        self.outlook = Outlook(document)
        judge = Judge(model, document.title, language)
        self.search = FacetSearch(
            self.outlook, judge, Writer(model, document.title, language, seed)
        )
        asks_flaws = any(task.name == FLAWS for task in tasks)
        self.review = FlawReview(self.outlook, judge) if asks_flaws else None
        self.answers: Answers | None = None
        self.not_whole = ""
        """Why the paper is not read as a whole although it should be."""
        if read != "sentences" and any(task.facets for task in tasks):
            reading, self.not_whole = read_whole(document, model)
            if reading is not None:
                self.answers = Answers(self.outlook, model, reading, seed)
            elif read == "whole":
                raise ConfigError(self.not_whole, "load the model with a larger context window")
        self.found: dict[str, list[Finding]] = {task.name: [] for task in tasks}
        self.unfinished: set[str] = set()
        self.timings: dict[str, float] = dict.fromkeys(self.found, 0.0)

    def run(self, settings: dict[str, object]) -> PaperAnalysis:
        """Do everything."""
        document, clock = self.document, self.clock
        clock.total = self._n_calls()
        timings = {"candidates": clock.seconds}
        for task in self.tasks:
            self._run_task(task, self._by_sentences(task))
        if self.answers is not None:
            self._run_whole(self.answers)
        language = document.language
        return PaperAnalysis(
            title=document.title,
            source=document.source,
            document_id=document.id,
            n_pages=len(document.pages),
            language=language,
            model=self.model.name,
            tasks=tuple(map(self._result, self.tasks)),
            sections=tuple((s.title, s.role, s.page) for s in document.sections if s.title),
            warnings=document.warnings
            + (() if self.outlook.is_paper else (NO_PAPER[language],))
            + ((self.not_whole,) if self.not_whole else ()),
            reading=self._reading(),
            timings=timings | self.timings | {"total": clock.seconds},
            settings=settings,
            document=document,
        )

    def _run_task(self, task: Task, findings: Iterable[Finding]) -> None:
        start = self.clock.seconds
        self.clock.begin(task.title[self.document.language])
        with contextlib.suppress(OutOfTime):
            for finding in findings:
                self._keep(finding)
        if self.clock.is_over():
            self.unfinished.add(task.name)
        self.timings[task.name] += self.clock.seconds - start

    def _by_sentences(self, task: Task) -> Iterable[Finding]:
        if self.review is not None and task.name == FLAWS:
            return self.review.findings(self.clock.tick, self.clock.is_over)
        return self.search.findings(task, self.clock.tick, self.clock.is_over)

    def _run_whole(self, answers: Answers) -> None:
        watched: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if isinstance(self.model, WatchedModel):
            watched = self.model.watched(self.clock.read)
        with watched:
            for task in self.tasks:
                self._run_task(task, answers.findings(task, self.clock.tick, self.clock.is_over))
        for finding in filter(self._may_be_replaced, chain.from_iterable(self.found.values())):
            self._announce(finding)

    def _keep(self, finding: Finding) -> None:
        """Take a finding, and tell of it if it is new and will stay."""
        kept = self.found[finding.task]
        new: Finding | None = finding
        if finding.in_view == "paper":
            self.found[finding.task], new = joined(kept, finding)
        else:
            kept.append(finding)
        if new is not None and not self._may_be_replaced(new):
            self._announce(new)

    def _may_be_replaced(self, finding: Finding) -> bool:
        """Whether something was not found, but may be once the paper is read as a whole."""
        return self.answers is not None and finding.is_missing and finding.task != FLAWS

    def _announce(self, finding: Finding) -> None:
        if self.on_finding:
            self.on_finding(finding)

    def _result(self, task: Task) -> TaskResult:
        language, findings = self.document.language, self.found[task.name]
        order = {facet.title[language]: place for place, facet in enumerate(task.facets)}
        if order:
            findings.sort(key=lambda f: order.get(f.title, 0))
        note = ""
        if task.name in self.unfinished:
            note = OUT_OF_TIME[language]
        elif not findings:
            about_experiments = task.name == FLAWS or all(f.evaluation for f in task.facets)
            none = about_experiments and not self.outlook.has_evaluation
            note = NO_EXPERIMENTS[language] if none else NOTHING[language]
        return TaskResult(
            task=task.name, title=task.title[language], findings=tuple(findings), note=note
        )

    def _reading(self) -> WholeReading | None:
        if self.answers is None or not self.answers.has_asked:
            return None
        reading = self.answers.reading
        return WholeReading(
            extent=reading.extent,
            n_tokens=reading.n_tokens,
            context_window=self.model.context_window,
            attended=self.answers.attended,
        )

    def _n_calls(self) -> int:
        """Calls of the model that the tasks will take at most."""
        language = self.document.language
        total = self.review.n_calls if self.review is not None else 0
        for task in self.tasks:
            for facet in task.facets:
                n_candidates = len(rank_candidates(self.outlook, facet, facet.ask[language]))
                total += n_candidates + min(facet.max_findings, n_candidates) + 1
                if self.answers is not None:
                    total += N_CALLS
        return max(total, 1)
