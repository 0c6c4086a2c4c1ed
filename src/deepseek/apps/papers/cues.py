"""Cue phrases: the generic wording by which papers announce problems, methods, set-ups, results.

Patterns are matched on lower-cased text whose spaced hyphens were joined (`plain`), so that the
same cue works on a PDF, on plain text and on tokenised text ("state - of - the - art").
"""

import re

OUR = r"\b(our|we|this (paper|work|article|study)|the (proposed|present(ed)?))\b|我们|本文|本研究|所提"

SENTENCE_CUES: dict[str, str] = {
    # what is new
    "in_this_paper": r"\bin this (paper|work|article|study)|\bthis (paper|work|article) |本文|本研究",
    "we_propose": r"\bwe (\w+ )?(propose|present|introduce|develop|describe|devise|design|put forward)"
    r"|\bis proposed|\bproposed (model|method|approach)|我们提出|本文提出|提出了?一种|设计了",
    "we_apply": r"\bwe (also |then |first |further |instead )?(apply|adopt|employ|incorporate|leverage"
    r"|extend|combine|formulate|utilize|exploit|replace|explore|investigate|study|address|model)\b"
    r"|我们(采用|引入|使用|结合)",
    "novel": r"\bnovel|\bnew (model|method|approach|architecture|framework|dataset|task|mechanism)"
    r"|\bfirst (time|to)\b|创新|新颖|新的|首次|首个",
    "contribution": r"\bcontributions?\b|贡献",
    "to_this_end": r"\bto (this|that) end|\bto (address|tackle|solve|overcome|alleviate|handle|mitigate)\b"
    r"|\bmotivated by|\binspired by|为此|为了解决|针对",
    "key_idea": r"\b(key|main|core|basic|central) (idea|insight|component|novelty|advantage)|\bspecifically\b"
    r"|\bin particular\b|核心思想|具体(来说|而言|地)",
    "which_allows": r"\b(allow|enabl|encourag|help|consist|compris)(es|s|ing|e)?\b|使得|从而",
    "sequence_word": r"^(\( ?[ivx\d]+ ?\)|[•\-–*]|first|second|third|finally|then|next|moreover|in addition"
    r"|additionally|furthermore|besides|lastly|secondly|thirdly|firstly)\b|^(首先|其次|最后|此外|另外|然后)",
    # the problem
    "problem_task": r"\b(the )?(task|problem|goal|aim|challenge)s? (of|is|in)\b|\baims? (to|at)\b|任务|问题是|旨在",
    "is_a_task": r"\b(is|are|has been|remains?) (an?|one of the|the)? ?(\w+ ){0,2}(task|problem|challenge|topic|area)\b"
    r"|\b(important|fundamental|challenging|crucial|essential|critical)\b|重要|挑战",
    "attention_drawn": r"\b(attention|interest|popular|widely|progress|trend)\b|广泛|关注",
    "however": r"^however\b|^but\b|^despite\b|^although\b|^unfortunately\b|^然而|^但",
    "others_work": r"\b(previous|existing|prior|traditional|recent|conventional) (\w+ )?(work|works|studies"
    r"|methods?|approach(es)?|models?|research)\b|现有|已有|传统|以往",
    # set-up
    "set_to": r"\b(is|are|was|were) set\b|\bset(ting)? (the|as|to)\b|\bwe set\b|\bset to\b|设(置)?为|设定",
    "hyper_parameter": r"\blearning rate|\bbatch(-| )?size|\bdropout|\bepochs?\b|\bweight decay|\bmomentum"
    r"|\bhidden (size|units?|dimension|states? (size|dimension))|\bmini-?batch|\bl2\b|\bgradient clip"
    r"|\bearly stopping|\bwarm-?up|\bbeam (size|search|width)|\bhyper-?parameters?|学习率|批(大小|次)|丢弃率|超参数|轮",
    "optimizer": r"\badam\b|\badadelta|\badagrad|\bsgd\b|\brmsprop|\boptimi[sz]er?|\bstochastic gradient"
    r"|\bkingma|\bnesterov|优化器",
    "dimension": r"\bdimension(al|ality|s)?\b|\d+ ?-?d\b|\bhidden units|\bfilters?\b|\bwindow size|\bheads\b"
    r"|\blayers? (of|with) \d|维",
    "embeddings_used": r"\bglove\b|\bglo ve\b|\bword2vec|\bfasttext|\belmo\b|\bpre-?trained|\binitiali[sz]ed?|\bword vectors"
    r"|预训练|初始化",
    "library": r"\b(tensorflow|pytorch|keras|theano|torch|dynet|mxnet|caffe|allennlp|nltk|spacy|stanford corenlp"
    r"|scikit-learn|chainer|gensim|moses)\b",
    "hardware": r"\bgpus?\b|\bnvidia|\btitan|\btesla|\bv100|\ba100|\bcpu\b|\btpus?\b|\bgb\b|显卡",
    "implemented": r"\bimplement(ed|ation)?\b|\btrained?\b (the|our|using|with|for|on)|\btokeni[sz]|\bpreprocess"
    r"|\btuned?\b|\bfine-?tun|\bvalidation set|\bdevelopment set|实现|训练|微调",
    "we_use": r"\bwe (also |only |simply |then )?(use|used|train|trained|run|ran|follow|followed|choose|chose|select|selected|evaluate|evaluated|conduct|test|experiment)\b"
    r"|\b(is|are|was|were) used\b|\busing the\b|我们(使用|采用|训练|选择)",
    "code_url": r"https?\s?:|github|\bcode (is|are|and|will)|\bpublicly available|\bavailable (at|on|online)|开源|代码",
    # data and comparison
    "dataset": r"\bdata ?sets?\b|\bcorpus\b|\bcorpora\b|\bbenchmarks?\b|\btraining (set|data)|\btest set|数据集|语料|基准",
    "statistics": r"\b\d[\d,]* (sentences|examples|documents|images|pairs|tweets|instances|questions|words|tokens|articles)"
    r"|\bconsists? of\b|\bcontains?\b|\bsplits?\b|包含",
    "baseline": r"\bbase-?lines?\b|\bcompetitors?|\bcompar(e|ed|ing|ison|isons)\b|\bagainst\b|基线|对比|比较",
    "uses_a": r"^[^,.]{0,60}\b(uses|utili[sz]es|employs|applies|adopts|incorporates|combines|extends|models|learns|proposed)\b",
    "metric": r"\baccuracy|\bf ?-?1\b|\bf-?(score|measure)|\bbleu|\brouge|\bprecision|\brecall\b|\bperplexity|\bmap\b|\bmrr\b|\bauc\b"
    r"|\berror rate|\bnme\b|\bscores?\b|\bmeteor|\bem\b|准确率|召回率|精度|分数",
    # results
    "outperforms": r"\boutperform|\bsurpass|\bbeats?\b|\bexceed|\bsuperior|\bbetter than|\bworse than|\bhigher than|\blower than"
    r"|\bperforms? (\w+ )?(better|worse|best|well|comparabl|competitive|similar)|优于|超过|高于|低于",
    "achieves": r"\bachiev|\bobtain(s|ed)?\b|\breach(es|ed)?\b|\byields?\b|\battain|\bgets?\b|\bgain(s|ed)?\b|取得|达到|获得",
    "state_of_the_art": r"\bstate-of-the-?\s?art|\bsota\b|\bbest (performance|results?|performing|score|model|system|f1|accuracy|known|published|reported)"
    r"|\bnew record|最先进|最优|最佳|最好",
    "improves": r"\bimprov|\bboost|\bincreas|\bgains?\b|\bmargin\b|\brelative\b|\babsolute\b|提升|提高|改进|改善",
    "drops": r"\bdrops?\b|\bdecreas|\bdegrad|\bdeclin|\breduc(es|ed|tion)|\bhurts?\b|\bloss of\b|\bfail|下降|降低",
    "percent": r"\d ?%|\d (points?|percent)|\bpoints?\b|百分",
    "significant": r"\bsignificant|\bconsistent|\bsubstantial|\bconsiderabl|\blarge margin|显著|明显",
    "we_observe": r"\b(we|one) (can |could |also |further )*(see|observe|find|found|notice|note|conclude|show|report)\b|\bit (is|can be) (clear|seen|observed|found)"
    r"|\b(is|are) (clear|evident|obvious)\b|可以看出|可以发现|我们发现|观察到|结果(表明|显示)",
    "shows_that": r"\b(show|indicat|suggest|demonstrat|confirm|prov|validat|verif|reveal|impl)(s|es|ed|ing|y|ies)? (that|the|our|its|how)"
    r"|\bsuggesting|\bindicating|\bdemonstrat|\beffectiveness|表明|说明|证明|有效性",
    "table_figure": r"\b(table|figure|fig)\b|表 ?\d|图 ?\d",
    "our_model": r"\b(our|the proposed|proposed) (\w+ ){0,2}(model|method|approach|system|network|framework|architecture|algorithm|parser|reader|full model)\b"
    r"|我们的(模型|方法)|本文(模型|方法)",
    "all_others": r"\ball (the )?(other|baseline|previous|existing|models|methods|datasets|three|four|five|competing)|\bon (all|both)\b|\bacross\b|所有",
    "ablation": r"\bablat|\bwithout\b|\bw/o\b|\bremov(e|es|ed|ing|al)\b|\breplac(e|es|ed|ing)\b|\bvariants?\b|\bonly (use|using)\b|\bcontribut(e|es) to\b|消融|去掉|移除",
    "compared_to": r"\bcompared (to|with)\b|\bin comparison|\bthan (the|that|our|other|all|previous)\b|\bwhile\b|\bwhereas\b|相比|与.{1,12}相比",
    "interesting": r"^(interestingly|surprisingly|notably|remarkably|overall|also|again|similarly|in general|in contrast|among)\b|值得注意",
    "because": r"\bbecause\b|\bdue to\b|\bsince\b|\bthis (is|may|might|can|could)\b|\bwe (believe|think|hypothesi[sz]e|argue|attribute|suspect)|因为|由于",
    # what is seldom a contribution
    "formal": r"\bwhere\b|\bdenot|\blet\b|\bdefined? (as|by)|\bas follows\b|\bequation|\bis the\b|\bfunction\b|\bmatrix|\bvector (of|for)\b|其中|表示",
    "example": r"\bfor (example|instance)\b|\be\. ?g\b|\bsuch as\b|例如|比如",
    "section_talk": r"\bin (this )?section\b|\bsection \d|\bsections\b|\brest of (this|the) paper|\borgani[sz]ed as|\bwe (will )?(discuss|evaluate|define|review)\b|本节|章节",
    "future": r"\bfuture\b|\bwould\b|\bplan to\b|\bwill\b|未来|今后",
    "they": r"\b(they|their|he|she|these|those)\b|他们",
    "uncertain": r"\b(can be|could be|may|might)\b|可能",
    "said_cited": r"\bet al\b|\(\s?\d{4}|\b(19|20)\d\d ?\)|\[ ?\d",
    "question_mark": r"\?|？",
}  # fmt: skip

HEADING_CUES: dict[str, str] = {
    "title": r"^title$",
    "abstract": r"^abstract|^摘要",
    "introduction": r"introduction|^motivation|引言|绪论|前言",
    "related": r"related|previous|prior work|background|literature|相关工作|研究现状",
    "contribution": r"contribution|贡献",
    "set_up": r"set-?\s?up|setting|implementation|hyper-?parameter|training|parameter|detail|optimi[sz]|实验设置|实现|参数|训练",
    "data": r"data|corpus|corpora|数据|语料",
    "baseline": r"baseline|compar|competi|previous (model|method)|other (model|method)|基线|对比",
    "metric": r"metric|measure|指标",
    "result": r"result|performance|main|leaderboard|结果|性能",
    "evaluation": r"evaluation|experiment|benchmark|评测|评估|实验",
    "ablation": r"ablation|effect|impact|component|contribution of|influence|importance|variant|消融|影响",
    "analysis": r"analy|discussion|error|case|qualitative|visuali[sz]|attention|example|分析|讨论",
    "method": r"method|model|approach|architecture|framework|network|system|proposed|algorithm|方法|模型|算法|架构",
    "detail": r"encoder|decoder|layer|embedding|loss|objective|inference|attention|input|output|notation|formulation|definition|task|problem|编码|解码|损失",
    "conclusion": r"conclu|summary|future|结论|总结",
    "task_name": r"\b(classification|recognition|answering|inference|entailment|translation|summari[sz]ation|parsing|tagging|detection|alignment|linking|extraction|labell?ing|retrieval|modell?ing)\b",
    "acknowledgement": r"acknowledg|致谢|references|参考文献|appendix|附录",
}  # fmt: skip

SENTENCE_PATTERNS = {name: re.compile(pattern) for name, pattern in SENTENCE_CUES.items()}
HEADING_PATTERNS = {name: re.compile(pattern) for name, pattern in HEADING_CUES.items()}

_SPACED_HYPHEN = re.compile(r"(?<=\w)\s*-\s+(?=\w)|(?<=\w)\s+-(?=\w)")
_SPACE_BEFORE = re.compile(r"\s+(?=[,.;:!?%)\]])")


def plain(text: str) -> str:
    """Lower case, hyphens joined, no blank before punctuation: the form that cues match."""
    text = _SPACED_HYPHEN.sub("-", text)
    return _SPACE_BEFORE.sub("", " ".join(text.split())).lower()


def cues_of(text: str) -> frozenset[str]:
    """Names of the cues in a sentence."""
    form = plain(text)
    return frozenset(name for name, pattern in SENTENCE_PATTERNS.items() if pattern.search(form))


def heading_cues_of(title: str) -> frozenset[str]:
    """Names of the cues in a section's title."""
    form = plain(title)
    return frozenset(name for name, pattern in HEADING_PATTERNS.items() if pattern.search(form))
