"""Pages name what exists, and say the same as the code."""

import ast
import dataclasses
import itertools
import pathlib
import re
import subprocess
import sys
import textwrap
import urllib.parse

import pytest

import keras_cosmo
from keras_cosmo.tasks.astro import AstroTask
from keras_cosmo.tasks.dust import DustTask
from keras_cosmo.tasks.higlow import HIGlowTask
from keras_cosmo.tasks.matter import MatterTask
from keras_cosmo.tasks.regression import RegressionTask
from keras_cosmo.tasks.separation import SeparationTask

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))]
TASKS = (RegressionTask, MatterTask, AstroTask, SeparationTask, DustTask, HIGlowTask)


def prose(page):
    """Text of a page without its code."""
    return re.sub(r"```.*?```|`[^`\n]*`", "code", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_images_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        assert not path or (page.parent / path).exists(), target
        if anchor and (not path or path.endswith(".md")):
            there = (page.parent / path if path else page).read_text(encoding="utf-8")
            titles = re.findall(r"^#+ (.*)$", there, flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_of_the_clone_that_are_named_exist(page):
    named = re.findall(
        r"\b(?:apps|benchmarks|docs|keras_cosmo|tests)/[\w/.-]*\.(?:py|md|bib)\b", page.read_text("utf-8")
    )
    missing = [name for name in named if not (ROOT / name).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_of_the_pages_is_python(page):
    for block in re.findall(r"^ *```python\n(.*?)^ *```", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE):
        ast.parse(textwrap.dedent(block))


def test_every_page_can_be_reached():
    listed = set(re.findall(r"^(?:[^<|`]+ <)?([\w/-]+)>?$", (DOCS / "index.md").read_text(), flags=re.MULTILINE))
    listed |= {
        f"api/{name}" for name in re.findall(r"^\w+$", (DOCS / "api" / "index.md").read_text(), flags=re.MULTILINE)
    }
    pages = {str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.rglob("*.md")}
    assert pages - {"index"} == listed


def test_every_folder_of_the_package_is_in_the_reference():
    listed = {
        match
        for page in (DOCS / "api").glob("*.md")
        for match in re.findall("<!-- modules: (.*) -->", page.read_text())
    }
    folders = {
        path.parent.relative_to(ROOT / "keras_cosmo").as_posix() for path in (ROOT / "keras_cosmo").rglob("*.py")
    }
    assert folders == listed


def test_the_bibliography_has_the_entries_of_the_tasks():
    text = (DOCS / "citations.bib").read_text(encoding="utf-8")
    for task in TASKS:
        assert task.paper.bibtex in text
    keys = re.findall(r"^@\w+\{(\w+),$", text, flags=re.MULTILINE)
    assert len(keys) == len(set(keys)) >= 10
    assert text.count("{") == text.count("}")


def test_citation_file():
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["cff-version"], citation["version"]) == ("1.2.0", keras_cosmo.__version__)
    plain = [reference["title"].lower() for reference in citation["references"]]
    assert {re.sub("[{}]", "", task.paper.title).lower() for task in TASKS} == set(plain)
    for reference in citation["references"]:
        number = reference["url"].rpartition("/")[2]
        (task,) = {each.paper.bibtex for each in TASKS if f"{{{number}}}" in each.paper.bibtex}
        assert all(author["family-names"].split()[-1] in task.replace("\\v{z}", "ž") for author in reference["authors"])


def test_changelog_knows_this_version_or_what_comes():
    titles = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert titles[0] in ("Unreleased", keras_cosmo.__version__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_outside_links_are_well_formed(page):
    """Whether they lead somewhere needs a network."""
    for address in re.findall(r"https?:[^\s)>`\"']+", page.read_text(encoding="utf-8")):
        parts = urllib.parse.urlsplit(address)
        if parts.hostname == "localhost":
            continue
        assert parts.scheme == "https", address
        assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), address
        assert re.fullmatch(r"(/[\w.~&+-]*)*", parts.path), address
        if parts.netloc == "arxiv.org":
            assert re.fullmatch(r"/abs/\d{4}\.\d{5}", parts.path), address


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as its first page says, with warnings as errors: links and anchors between pages among them."""
    for name in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", DOCS, folder / "site"]
    done = subprocess.run([*command, "-d", folder / "doctrees"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_the_site_has_its_pages(site):
    for page in PAGES:
        if page.is_relative_to(DOCS):
            path = site / page.relative_to(DOCS).with_suffix(".html")
            assert path.stat().st_size > 5000, path


def test_the_site_needs_no_network(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]* src=\"([^\"]*)|<link[^>]* rel=\"stylesheet\"[^>]* href=\"([^\"]*)",
            page.read_text("utf-8"),
        )
        for source in filter(None, itertools.chain(*loaded)):
            assert "//" not in source, (page, source)
            assert (page.parent / source.partition("?")[0]).is_file(), (page, source)


def test_the_site_has_every_number_of_the_recipes(site):
    pages = {"RegressionTask": "regression", "MatterTask": "matter", "AstroTask": "matter"}
    pages |= {"SeparationTask": "separation", "DustTask": "dust", "HIGlowTask": "higlow"}
    for task in TASKS:
        text = (site / f"{pages[task.__name__]}.html").read_text("utf-8")
        assert "<!-- recipe" not in text
        for field in dataclasses.fields(task.presets["paper"]):
            assert f"--{field.name.replace('_', '-')}</span>" in text, field.name
