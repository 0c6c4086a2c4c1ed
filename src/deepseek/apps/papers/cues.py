"""Cue phrases: the generic wording by which papers announce problems, methods, set-ups, results.

Numbered references ("Table 2", "Smith et al., 2015") are no cues: many texts come without them.
"""

import re

# Cue -> pattern. Each is a family of phrases that authors use in one situation.
CUES = {
    "propose": r"\bwe (propose|present|introduce|develop|describe|design|devise"
    r"|put forward|build)\b"
    r"|\b(is|are) (proposed|introduced)\b|本文提出|提出了|我们提出",
    "this_paper": r"\bin this (paper|work|article|study)\b"
    r"|\bthis (paper|work|article) |本文|本研究",
    "contribution": r"\bcontributions?\b|\bnovel\b|\bnew (method|model|approach"
    r"|architecture|framework"
    r"|dataset|algorithm|task)\b|\bfirst (to|work|attempt|time)\b|贡献|首次|创新",
    "our_system": r"\bour (\w+ ){0,3}(model|method|approach|system|framework|network|architecture"
    r"|algorithm|parser|work)s?\b|我们的(模型|方法|系统)",
    "problem": r"\b(task|problem) of\b|\baims? (to|at)\b|\bgoal\b"
    r"|\bchallenging\b|\bproblem\b|任务|问题",
    "however": r"\b(however|despite|although|unfortunately|lack|limited|fail|suffer)\b|然而|不足",
    "based_on": r"\b(based on|consists? of|composed of|built (on|upon)|extends?"
    r"|employs?|incorporat\w+"
    r"|combin\w+|leverag\w+|integrat\w+|utiliz\w+)\b|基于|由.{1,20}组成",
    "first_then": r"\b(first(ly)?|second(ly)?|then|finally|next)\b *,|首先|其次|最后",
    "outperform": r"\b(outperform\w*|surpass\w*|exceed\w*|beats?|superior|better than|best"
    r"|higher than|worse than|comparable|competitive|on par)\b|优于|超过|最佳",
    "state_of_art": r"\bstate[ -]+of[ -]+the[ -]+art\b|\bsota\b|最先进|最新水平",
    "achieve": r"\b(achiev\w+|obtain\w*|reach\w*|attain\w*|yield\w*|gain\w*)\b|达到|取得",
    "improve": r"\b(improv\w+|increas\w+|boost\w*|reduc\w+|decreas\w+|drop\w*|degrad\w+|hurt\w*"
    r"|margin|significant\w*|substantial\w*|contribut\w+)\b|提高|提升|降低|显著",
    "observe": r"\bwe (observe|find|see|notice|note|conclude)\b|\b(shows?|indicat\w+|demonstrat\w+"
    r"|suggest\w*|reveals?|confirms?) that\b|\bcan be seen\b|表明|发现|可以看出",
    "results_of": r"\bresults?\b|\bperformance\b|\bf1\b|\baccuracy\b"
    r"|\bbleu\b|\bscores?\b|结果|准确率",
    "ablation": r"\bablation\b|\bwithout\b|\bremov\w+\b|\bw/o\b|消融|去掉",
    "baseline": r"\bbaselines?\b|\bcompar(e|ed|ing|ison)\b|基线|对比",
    "setup": r"\bwe (use|used|set|train|trained|apply|applied|adopt|adopted|employ|initialize|tune"
    r"|tuned|implement|implemented|choose|optimi[sz]e|select"
    r"|fine-tune|pre-?train|run)\b|我们使用|采用",
    "passive_setup": r"\b(is|are|was|were) (set|trained|initiali[sz]ed|used"
    r"|applied|tuned|optimi[sz]ed"
    r"|fixed|chosen|selected|implemented|updated|clipped|pre-?trained|fine-tuned)\b",
    "optimizer": r"\b(adam|adamw|adagrad|adadelta|sgd|rmsprop|stochastic gradient|optimizer"
    r"|back-?propagation)\b|优化器",
    "hyper": r"\b(learning rates?|batch size|mini-?batch\w*|dropout|epochs?"
    r"|hidden (size|units?|layers?"
    r"|dimensions?|states?)|dimension\w*|weight decay|regulari[sz]ation|momentum|hyper-?parameters?"
    r"|early stopping|warm-?up|beam)\b|学习率|超参数",
    "pretrained": r"\b(glove|word2vec|elmo|bert|roberta|fasttext"
    r"|pre-?trained|embeddings?)\b|预训练",
    "hardware": r"\b(gpus?|tpus?|titan|nvidia|tensorflow|pytorch|keras|theano|toolkit|library)\b",
    "dataset": r"\b(datasets?|corpus|corpora|benchmarks?|treebank|test set"
    r"|training set|dev(elopment)?"
    r" set|annotated)\b|数据集|语料",
    "code": r"\b(code|source|available|github|release\w*)\b|代码|开源",
    "future": r"\bfuture work\b|\bin the future\b|\bplan to\b|\bleave\b|未来",
    "limitation": r"\blimitations?\b|\bdrawback\b|\bshortcoming\b|局限|缺点",
    "example": r"\b(for example|for instance|e\.? ?g\.?|such as)\b|例如",
    "others": r"\b(previous|prior|existing|recent|traditional|they|their)\b|已有|以往",
    "definition": r"\b(denote\w*|defined? as|formally|let|where|i\.? ?e\.?"
    r"|namely|computed? (as|by))\b",
    "section_ref": r"\b(section|appendix|following|remainder|rest of)\b|节",
    "question": r"\?|？",
}  # fmt: skip
PATTERNS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in CUES.items()}
HEADING_CUES = (
    "hyper", "setup", "ablation", "results_of", "dataset", "baseline", "contribution",
)  # fmt: skip
HEADINGS = {
    "main": re.compile(r"result|performance|comparison|overall|main"),
    "analysis": re.compile(r"analy|effect|impact|discussion|study|error|case"),
    "data": re.compile(r"data|corpus|corpora|task"),
    "system": re.compile(r"baseline|model|system|method"),
    "evaluation": re.compile(r"metric|evaluation|experiment"),
    "training": re.compile(r"implementation|training|detail|setting|configuration|setup"),
}
