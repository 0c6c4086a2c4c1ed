"""A small paper in Markdown that has no flaw, in parts that a test can replace."""

from pathlib import Path

from deepseek.apps.documents.document import Document
from deepseek.apps.documents.reader import read_document

PARTS = {
    "abstract": "We propose ZipNet, a parser with a gated memory. ZipNet reaches an accuracy of "
    "91.4 on the Treebank data set and 88.2 on the Webbank data set. It improves by 1.3 points "
    "over the best earlier parser.",
    "introduction": "Parsing is an old problem. We propose ZipNet, which reads a sentence once. "
    "Our ZipNet keeps a gated memory. Many parsers are slow. We present ZipNet in detail below. "
    "The memory of ZipNet is small. It can be trained on one machine.",
    "method": "ZipNet has an encoder and a gated memory. The encoder reads words. The memory "
    "stores states. We call the whole model ZipNet. The gate decides what is kept.",
    "setup": "We train on 39,832 sentences of the two data sets. Accuracy is the metric. We use "
    "Adam with a learning rate of 0.001. Our code is available at github.com/zip/net. All "
    "results are averaged over five runs with different seeds.",
    "main": "Table 1 compares ZipNet with three baselines. ZipNet reaches an accuracy of 91.4 on "
    "Treebank. The best baseline, StackTwo, has an accuracy of 90.1. ZipNet outperforms StackTwo "
    "by 1.3 points. On Webbank ZipNet has an accuracy of 88.2, compared with 87.0 for the "
    "previous system GraphOne. SlowNet is the weakest of the baselines with 85.3 on Webbank.",
    "table": "Table 1: Accuracy of all parsers.\n\n"
    "| Parser | Treebank | Webbank | Average |\n|---|---|---|---|\n"
    "| SlowNet (Mori, 2014) | 88.9 | 85.3 | 87.1 |\n| GraphOne (Lee, 2015) | 89.6 | 87.0 | 88.3 |\n"
    "| StackTwo (Roy, 2016) | 90.1 | 86.5 | 88.3 |\n| ZipNet (ours) | 91.4 | 88.2 | 89.8 |",
    "ablation": "## 5 Ablation study\n\nTable 2 shows an ablation. Without the gate the accuracy "
    "drops to 90.2.\n\nTable 2: Ablation of ZipNet.\n\n"
    "| Variant | Accuracy |\n|---|---|\n| ZipNet | 91.4 |\n| w/o gate | 90.2 |\n"
    "| w/o memory | 89.7 |",
    "conclusion": "ZipNet is a fast parser. A limitation is that it reads one language only. "
    "In future work we will read more languages. It needs 39,832 sentences for training.",
}  # fmt: skip


def paper(folder: Path, **changes: str) -> Document:
    """The paper with some parts replaced."""
    parts = {**PARTS, **changes}
    text = f"""# ZipNet: Parsing with a Gated Memory

## Abstract

{parts["abstract"]}

## 1 Introduction

{parts["introduction"]}

## 2 Method

{parts["method"]}

## 3 Experiments

{parts["setup"]}

## 4 Results

{parts["main"]}

{parts["table"]}

{parts["ablation"]}

## 6 Conclusion

{parts["conclusion"]}
"""
    path = folder / "paper.md"
    path.write_text(text, encoding="utf-8")
    return read_document(path)
