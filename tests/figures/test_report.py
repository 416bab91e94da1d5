import base64
import html.parser
import io
import pathlib
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from keras_cosmo import __version__
from keras_cosmo.figures.report import PACKAGE_CITATION, Table, format_value, write_report


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
            ),
            Table(title="Scores", header=["", ""], rows=[["cells", "40 of 41"]]),
        ],
        figures=[("Drawn", 'a "caption" & more', picture(9.0)), ("Saved", "", path.parent / "saved.png")],
        citations=[("Gillet et al. 2019", "@article{gillet2019, title={A & B}}"), ("No entry", "")],
        notes=["R2 depends on the prior <width>."],
        run=[("command", "$ python apps/train.py --out 'a <b>'"), ("seed", 0)],
        data=[("checksum", "sha256:0123")],
        recipe=[
            Table(
                title="Recipe",
                header=["", "this run", "paper"],
                rows=[["epochs", "3", "20"], ["batch", "8", "8"], ["network", "small", "large, of many more filters"]],
                marked=[0, 2],
            )
        ],
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
    targets = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(targets)) == len(targets)
    assert {"table-scores", "table-scores-table-2", "figure-drawn", "recipe-recipe"} <= set(targets)
    assert {attributes["href"][1:] for attributes in page.all("a")} <= set(targets)


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
    assert sizes == [(1170, 260), (150, 100)]
    assert [attributes["alt"] for attributes in page.all("img")] == ['Drawn: a "caption" & more', "Saved"]


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
    # Of the paper and of this package; one citation has no entry.
    assert page.text.count("BibTeX") == 2
    # Right-aligned: -0.25, "0.010", the missing value and 3; "40 of 41"; four numbers of the recipe. And the headings
    # above them, but for the table without any.
    assert sum("number" in cell.get("class", "") for cell in page.all("td")) == 9
    assert sum("number" in cell.get("class", "") for cell in page.all("th")) == 4
    assert len(page.all("thead")) == 2
    assert [row.get("class") for row in page.all("tr")].count("marked") == 2


def test_where_everything_came_from(tmp_path):
    text = full_report(tmp_path / "report.html").read_text("utf-8")
    assert "<code>python apps/train.py --out &#39;a &lt;b&gt;&#39;</code>" in text
    titles = [re.sub("<.*", "", title).strip() for title in re.findall("<h2>(.*)</h2>", text)]
    assert titles == [
        "Scores",
        "Scores",
        "What this is not",
        "Drawn",
        "Saved",
        "What was run",
        "Data",
        "Recipe",
        "How to cite",
    ]
    # Every heading has a link to itself and is in the list of contents, where the same order is kept.
    own = re.findall('<h2>.*<a class="anchor" href="#([^"]+)"', text)
    contents = re.findall('href="#([^"]+)"', text[text.index("<nav") : text.index("</nav>")])
    assert contents == own
    assert len(own) == len(titles)


def test_the_package_is_cited_as_its_citation_file_says(tmp_path):
    told = (pathlib.Path(__file__).parents[2] / "CITATION.cff").read_text("utf-8")
    field = dict(re.findall(r"^([a-z]+): (.*)$", told, flags=re.MULTILINE))
    author = re.search("authors:\n  - name: (.*)", told)[1]
    text, bibtex = PACKAGE_CITATION
    assert field["version"] == __version__
    for value in (
        field["title"],
        field["version"],
        field["abstract"].rstrip("."),
        field["message"].rstrip("."),
        author,
    ):
        assert value.lower() in text.lower()
    for value in (field["title"], field["version"], author, field["license"]):
        assert f"{{{value}}}" in bibtex
    page = Page(write_report(tmp_path / "report.html", title="Run").read_text("utf-8"))
    assert bibtex in "\n".join(page.text)


def test_a_figure_opens_large_and_closes(tmp_path):
    page = Page(full_report(tmp_path / "report.html").read_text("utf-8"))
    links = page.all("a")
    for name in ("drawn", "saved"):
        assert {"id": f"figure-{name}-large"} in page.all("figure")
        opens = [link for link in links if link["href"] == f"#figure-{name}-large"]
        assert [link["class"] for link in opens] == ["picture"]
        assert any(link["href"] == f"#figure-{name}" and link.get("class") == "close" for link in links)


def test_wide_content_scrolls_inside_its_own_box(tmp_path):
    page = Page(full_report(tmp_path / "report.html").read_text("utf-8"))
    boxes = [attributes for attributes in page.all("div") if "scroll" in (attributes.get("class") or "").split()]
    assert len(boxes) == 3  # the tables; figures shrink with the page
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)
    assert any(attributes.get("name") == "viewport" for attributes in page.all("meta"))


def test_a_report_of_nothing_but_a_title(tmp_path):
    page = Page(write_report(tmp_path / "deep" / "er" / "report.html", title="Run").read_text("utf-8"))
    assert [section["id"] for section in page.all("section")] == ["citations"]
    assert not page.all("img")


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
        ("nan", "–"),
        ("nan ± nan", "–"),
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
