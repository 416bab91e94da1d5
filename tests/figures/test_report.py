import base64
import html.parser
import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from keras_cosmo.figures.report import Table, format_value, write_report


class Page(html.parser.HTMLParser):
    """Collects elements, their attributes and text; fails on tags that do not close."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.open = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def picture(width=3.0):
    figure = Figure(figsize=(width, 2.0))
    figure.add_subplot().plot([1, 2], [3, 4])
    return figure


def full_report(path):
    picture().savefig(path.parent / "saved.png", dpi=50)
    return write_report(
        path,
        title="Light-cones & <networks>",
        subtitle="seed 0",
        summary=[("Test light-cones", 100), ("R²", 0.98765432)],
        tables=[
            Table(
                title="Scores",
                header=["parameter", "R²", "±"],
                rows=[["zeta", -0.25, "0.010"], ["<i>E_0", None, 3]],
                note="a note",
            )
        ],
        figures=[("Drawn", 'a "caption" & more', picture(9.0)), ("Saved", "", path.parent / "saved.png")],
        citations=[("Gillet et al. 2019", "@article{gillet2019, title={A & B}}"), ("No entry", "")],
        notes=["R2 depends on the prior <width>."],
    )


def test_the_page_is_self_contained(tmp_path):
    path = full_report(tmp_path / "report.html")
    text = path.read_text("utf-8")
    page = Page(text)
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert not page.all("script")
    assert not page.all("link")
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#"), tag
    targets = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {attributes["href"][1:] for attributes in page.all("a")} <= targets


def test_images_are_whole_pngs_with_their_size(tmp_path):
    page = Page(full_report(tmp_path / "report.html").read_text("utf-8"))
    sizes = []
    for attributes in page.all("img"):
        kind, data = attributes["src"].split(",", 1)
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            image.load()
            sizes.append(image.size)
        assert (int(attributes["width"]), int(attributes["height"])) == sizes[-1]
    assert sizes == [(990, 220), (150, 100)]
    assert [attributes["alt"] for attributes in page.all("img")] == ['a "caption" & more', "Saved"]


def test_text_is_escaped_and_complete(tmp_path):
    text = full_report(tmp_path / "report.html").read_text("utf-8")
    assert "<networks>" not in text
    assert "<i>" not in text
    page = Page(text)
    for expected in (
        "Light-cones & <networks>",
        "seed 0",
        "Test light-cones",
        "0.9877",
        "−0.25",
        "–",
        "<i>E_0",
        "a note",
        "@article{gillet2019, title={A & B}}",
        "R2 depends on the prior <width>.",
    ):
        assert expected in page.text
    assert page.text.count("BibTeX") == 1
    # Right-aligned: -0.25, "0.010", the missing value and 3; and the two headings above them.
    assert sum("number" in cell.get("class", "") for cell in page.all("td")) == 4
    assert sum("number" in cell.get("class", "") for cell in page.all("th")) == 2


def test_wide_content_scrolls_inside_its_own_box(tmp_path):
    page = Page(full_report(tmp_path / "report.html").read_text("utf-8"))
    boxes = [attributes for attributes in page.all("div") if "scroll" in (attributes.get("class") or "").split()]
    assert len(boxes) == 3
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)
    assert [attributes.get("class") for attributes in page.all("img")] == ["wide", None]
    assert any(attributes.get("name") == "viewport" for attributes in page.all("meta"))


def test_a_report_of_nothing_but_a_title(tmp_path):
    page = Page(write_report(tmp_path / "deep" / "er" / "report.html", title="Run").read_text("utf-8"))
    assert not page.all("section")
    assert not page.all("nav")


def test_the_same_input_gives_the_same_file(tmp_path):
    first = full_report(tmp_path / "report.html").read_bytes()
    assert full_report(tmp_path / "report.html").read_bytes() == first


def test_a_failed_report_leaves_the_old_one_and_no_rest(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")

    class Unprintable:
        def __str__(self):
            raise RuntimeError("cannot be shown")

    with pytest.raises(RuntimeError, match="cannot be shown"):
        write_report(path, title="Run", summary=[("a", Unprintable())])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_while_renaming_leaves_no_rest(tmp_path):
    target = tmp_path / "report.html"
    target.mkdir()
    with pytest.raises(OSError, match=r"report\.html"):
        write_report(target, title="Run")
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"),
        (-1e-9, "−1e-09"),
        (np.float32(2.0), "2"),
        (np.float64("nan"), "–"),
        (None, "–"),
        (10023604, "10023604"),
        (np.int64(3), "3"),
        ("-x", "-x"),
        (True, "True"),
    ],
)
def test_cells(value, text):
    assert format_value(value) == text


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"rows: expected 2 cells \['a', 'b'\] in table 't', got 1 in row 0"):
        Table(title="t", header=["a", "b"], rows=[[1]])
    with pytest.raises(FileNotFoundError, match=r"figures: no such file, .*missing.png; write it"):
        write_report(tmp_path / "r.html", title="t", figures=[("a", "", tmp_path / "missing.png")])
    (tmp_path / "fake.png").write_bytes(b"GIF89a" + bytes(40))
    with pytest.raises(ValueError, match=r"figures: expected a PNG file, got another format in .*fake.png"):
        write_report(tmp_path / "r.html", title="t", figures=[("a", "", str(tmp_path / "fake.png"))])
    with pytest.raises(TypeError, match=r"figures: expected a matplotlib Figure or the path"):
        write_report(tmp_path / "r.html", title="t", figures=[("a", "", 3)])
