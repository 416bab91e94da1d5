"""Sphinx settings: ``sphinx-build -W -b html docs build/docs`` makes the site, without a network."""

import dataclasses
import importlib
import os
import pathlib
import re
import sys

from docutils import nodes

# The reference is read from this clone; what it imports, TensorFlow among it, need not see a GPU.
PACKAGE = pathlib.Path(__file__).parent.parent / "keras_cosmo"
sys.path.insert(0, str(PACKAGE.parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

from keras_cosmo import __version__  # noqa: E402
from keras_cosmo.tasks.presets import show  # noqa: E402

project = "keras_cosmo"
author = "The keras_cosmo authors"
copyright = "The keras_cosmo authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["examples"]
myst_heading_anchors = 3
# Words in single backticks, in docstrings, are code.
default_role = "code"

html_theme = "furo"
html_title = f"keras_cosmo {__version__}"
html_copy_source = False
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]

autodoc_default_options = {"members": True, "member-order": "bysource"}
# Names such as "maps" are attributes of several classes; nothing is to be linked to one of them.
suppress_warnings = ["ref.python"]
# A link to a name of this package that leads nowhere is an error; those of other packages need a network.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!keras_cosmo\.).*")]
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Deviations", "notes_style")]


def reference_pages(app, page, source):
    """Put an entry for each module of a folder in the place of ``<!-- modules: folder -->``."""

    def entries(match):
        modules = sorted((PACKAGE / match[1]).glob("*.py"))
        names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in modules]
        return "\n".join(
            f"## {name.removeprefix('keras_cosmo.')}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n"
            for name in names
            if not name.endswith("__init__")
        )

    source[0] = re.sub("<!-- modules: (.*) -->", entries, source[0])


def recipes(app, page, source):
    """Put every number of the presets of a task in the place of ``<!-- recipe: task -->``."""

    def table(match):
        module = importlib.import_module(f"keras_cosmo.tasks.{match[1]}")
        (task,) = (each for each in vars(module).values() if getattr(each, "name", None) == match[1])
        others = [name for name in task.presets if name != "paper"]
        rows = [["flag", "", "`paper`", *(f"`{name}`" for name in others), "source"]]
        rows.append(["---"] * len(rows[0]))
        for field in dataclasses.fields(task.presets["paper"]):
            values = [show(getattr(task.presets[name], field.name)) for name in ("paper", *others)]
            values[1:] = ["" if value == values[0] else value for value in values[1:]]
            text, origin = field.metadata["text"], field.metadata["source"]
            rows.append([f"`--{field.name.replace('_', '-')}`", text, *values, origin])
        cells = ([str(cell).replace("<", "&lt;").replace("|", "\\|") for cell in row] for row in rows)
        return "\n".join(f"| {' | '.join(row)} |" for row in cells)

    source[0] = re.sub("<!-- recipe: (.*) -->", table, source[0])


def leave_out_imported(app, what, name, obj, skip, options):
    """Functions of other packages are not part of the reference, though some do not say where they come from."""
    module = getattr(obj, "__module__", None)
    return True if isinstance(module, str) and module.split(".")[0] != "keras_cosmo" and callable(obj) else None


def sentences_of_constants(app, what, name, obj, options, lines):
    """Napoleon would take what stands before a colon in the first line of a constant's text for its type."""
    if what in ("attribute", "data"):
        lines.insert(0, "")


def plain_text(app, what, name, obj, options, lines):
    """Bars stand for absolute values, and lists follow their sentence without an empty line."""
    result = []
    for line in lines:
        if re.match(r"\s*- ", line) and result and result[-1].strip() and not re.match(r"\s*- |\s{2,}", result[-1]):
            result.append("")
        result.append(re.sub(r"(?<![`\\])\|(?=\S)", r"\\|", line))
    lines[:] = result


def mark_comparisons(app, doctree):
    """Tables of points, the papers' and ours, have a class of their own, by which phones show them as a list."""
    for table in doctree.findall(nodes.table):
        if next(table.findall(nodes.entry)).astext() == "point":
            table["classes"].append("points")
    # A number and its error stay on one line.
    for text in list(doctree.findall(nodes.Text)):
        if " ± " in text:
            text.parent.replace(text, nodes.Text(text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")))


def setup(app):
    """Hooks of this site."""
    app.connect("source-read", reference_pages)
    app.connect("source-read", recipes)
    app.connect("autodoc-skip-member", leave_out_imported)
    app.connect("autodoc-process-docstring", sentences_of_constants, priority=400)  # before Napoleon's 500
    app.connect("autodoc-process-docstring", plain_text)
    app.connect("doctree-read", mark_comparisons)
