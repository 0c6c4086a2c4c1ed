"""Heading lines and section roles."""

import pytest
from glyph_page import line, run

from deepseek.apps.documents.headings import heading_level, role_of


@pytest.mark.parametrize(
    ("text", "bold", "gap", "level"),
    [
        ("1 Introduction", True, 1.0, 1),
        ("3.2 Attention", True, 1.0, 2),
        ("3.2.1 Scaled Dot-Product Attention", False, 1.0, 3),
        ("Abstract", True, 1.0, 1),
        ("II. RELATED WORK", False, 1.0, 1),
        ("A.1 Proofs", True, 1.0, 2),
        ("B. Evaluation Metric", False, 1.0, 2),
        ("一、引言", True, 1.0, 1),
        ("2.1 数据集", True, 1.0, 2),
        ("References", True, 1.0, 1),
        # no headings
        ("2 shows that the model is better than", False, 0.0, 0),
        ("4 3 2 41 Generation", True, 1.0, 0),
        ("Table 2: Results", True, 1.0, 0),
        ("12.5 81.2 77.1", True, 1.0, 0),
        ("We present a new model of language,", True, 0.0, 0),
        ("plain words of a paragraph", False, 1.0, 0),
    ],
)
def test_heading_level(text: str, bold: bool, gap: float, level: int) -> None:
    assert heading_level(line(run(text, 50, 100, bold=bold)), 10.0, gap) == level


@pytest.mark.parametrize(
    ("title", "parent", "role"),
    [
        ("1 Introduction", "other", "introduction"),
        ("2 Related Work", "other", "related"),
        ("4.3 Ablation Study", "results", "ablation"),
        ("5 Experimental Results", "other", "results"),
        ("5 Experiments", "other", "experiments"),
        ("5.1 Model Variations", "experiments", "experiments"),
        ("3.1 Encoder and Decoder Stacks", "method", "method"),
        ("2.1 Word Embeddings", "related", "related"),
        ("7 Conclusion and Future Work", "other", "conclusion"),
        ("Limitations", "other", "limitations"),
        ("References", "other", "references"),
        ("Appendix A", "other", "appendix"),
        ("三、实验", "other", "experiments"),
        ("参 考 文 献", "other", "references"),
        ("摘 要", "front", "abstract"),
        ("3 Of Cabbages", "other", "other"),
    ],
)
def test_role(title: str, parent: str, role: str) -> None:
    assert role_of(title, parent) == role  # type: ignore[arg-type]
