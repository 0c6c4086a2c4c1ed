"""Curves hold their points, whatever they are."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from deepseek.train.curve import HEIGHT, N_POINTS, WIDTH, line_chart, line_drawing


def drawn(chart: str) -> list[list[float]]:
    found = re.findall(r'<polyline class="s\d" points="([^"]+)"', chart)
    return [[float(n) for n in re.split(r"[ ,]", points)] for points in found]


@pytest.mark.parametrize(
    "values", [[1.0, 2.0, 3.0], [5.0, 5.0], [1e-9, 2e-9], [-3.0, 1e6], [0.0, 0.0, 0.0]]
)
def test_all_points_lie_within_the_picture(values: list) -> None:
    chart = line_chart({"a": [(float(i), v) for i, v in enumerate(values)]}, "a chart")
    (numbers,) = drawn(chart)
    assert len(numbers) == 2 * len(values)
    assert all(0 <= x <= WIDTH for x in numbers[::2])
    assert all(0 <= y <= HEIGHT for y in numbers[1::2])
    ElementTree.fromstring(chart.split("<p class")[0])


def test_names_are_escaped_and_gaps_left_out() -> None:
    chart = line_chart({"<b>": [(0.0, 1.0), (1.0, float("nan"))], "none": []}, '"quoted"')
    assert "<b>" not in chart
    assert "&lt;b&gt;" in chart
    assert "none" not in chart
    assert "<circle" in chart
    assert line_chart({"none": []}, "empty") == ""


def test_long_curves_are_thinned_and_end_where_they_end() -> None:
    chart = line_chart({"a": [(float(i), float(i)) for i in range(10_001)]}, "long")
    (numbers,) = drawn(chart)
    assert len(numbers) <= 2 * N_POINTS
    assert "step 10,000" in chart


def test_a_drawing_is_a_file_of_its_own_with_the_same_curves() -> None:
    series = {
        f"<{name}>": [(0.0, 1.0), (1.0, 2.0), (2.0, float(n))] for n, name in enumerate("abcde")
    }
    root = ElementTree.fromstring(line_drawing(series, "a & b"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert drawn(line_drawing(series, "a & b")) == drawn(line_chart(series, "a & b"))
    words = [element.text or "" for element in root.iter() if element.tag.endswith("text")]
    assert {f"<{name}> {n}" for n, name in enumerate("abcde")} <= set(words)
    ElementTree.fromstring(line_drawing({}, "nothing"))
