"""The report of a run: one HTML page that a person opens first, with everything inside it."""

import base64
import dataclasses
import importlib.resources
import io
import math
import os
import re
import struct
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from keras_cosmo import __version__
from keras_cosmo.figures.style import save_png

#: How this package is cited, as in ``CITATION.cff``: text and BibTeX entry. Every report ends with it.
PACKAGE_CITATION = (
    f"The keras_cosmo authors: keras_cosmo, version {__version__}. Deep learning on cosmological maps in Keras 3, with "
    "five published networks from simulation to SavedModel. If you use this software, please cite it, and the paper "
    "whose network you used.",
    "@software{keras_cosmo,\n  author = {{The keras_cosmo authors}},\n  title = {keras_cosmo},\n  version = "
    f"{{{__version__}}},\n  license = {{MIT}}\n}}",
)

_ONE = r"[-+−]?\d[\d.,]*(e[-+−]?\d+)?%?"
#: A number, with its error or its interval; a share of a number; a number that is not known.
_NUMBER = re.compile(rf"{_ONE}( ± {_ONE})?( \({_ONE} to {_ONE}\))?|{_ONE} of {_ONE}|–")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a report.

    Args:
        title: Heading.
        header: Column names.
        rows: Cells by row. Floats are shown with four significant digits, None and NaN as a dash, all else as text
            (format numbers yourself to align their decimals, such as ``"0.930 ± 0.012"``); numbers stand at the right.
        note: One line below the table.
        marked: Numbers of the rows, from 0, that are set in bold.

    Raises:
        ValueError: If a row has more or fewer cells than the header.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence]
    note: str = ""
    marked: Collection[int] = ()

    def __post_init__(self):
        for index, row in enumerate(self.rows):
            if len(row) != len(self.header):
                raise ValueError(
                    f"rows: expected {len(self.header)} cells {list(self.header)} in table {self.title!r}, "
                    f"got {len(row)} in row {index}."
                )


def write_report(
    path,
    *,
    title: str,
    subtitle: str = "",
    summary: Sequence[tuple[str, object]] = (),
    tables: Sequence[Table] = (),
    notes: Sequence[str] = (),
    figures: Sequence[tuple[str, str, object]] = (),
    run: Sequence[tuple[str, object]] = (),
    data: Sequence[tuple[str, object]] = (),
    recipe: Sequence[Table] = (),
    citations: Sequence[tuple[str, str]] = (),
    dpi: int = 130,
) -> Path:
    """Write a self-contained page: figures are embedded, styles are inline, no script and no network is needed.

    It reads from top to bottom as the arguments stand here, with a list of contents above, and ends with how this
    package is cited. A figure that is clicked fills the window. The page is written aside and renamed, so an older
    report stays whole until the new one is.

    Args:
        path: File to write; its folder is made if missing.
        title: Heading of the page.
        subtitle: One line below it.
        summary: Pairs of label and value, shown as tiles.
        tables: Tables of results, in order.
        notes: Paragraphs of plain text under "What this is not": what the numbers do not say.
        figures: Triples of title, caption and a Matplotlib Figure or the path of a PNG file, in order.
        run: Pairs of label and value under "What was run". A value that begins with a dollar sign and a space is shown
            as a command.
        data: Pairs of label and value under "Data".
        recipe: Tables of what was set, after the results.
        citations: Pairs of text and BibTeX entry, before that of this package.
        dpi: Dots per inch for Figure objects.

    Returns:
        The path.

    Raises:
        FileNotFoundError: If a PNG file is missing.
        ValueError: If a file is not a PNG.
        TypeError: If a figure is neither a Figure nor a path.

    Example:
        >>> write_report("report.html", title="Run", summary=[("Test light-cones", 100)])  # doctest: +SKIP
    """
    path = Path(path)
    pictures = [_picture(*figure, dpi) for figure in figures]
    anchors = _anchors(
        [("table", table.title) for table in tables]
        + [("figure", picture["title"]) for picture in pictures]
        + [("recipe", table.title) for table in recipe]
    )
    parts = iter(anchors)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = format_value
    environment.tests["numeric"] = _is_numeric
    environment.tests["command"] = lambda value: isinstance(value, str) and value.startswith("$ ")
    template = importlib.resources.files("keras_cosmo.figures").joinpath("report.html").read_text("utf-8")
    page = environment.from_string(template).render(
        title=title,
        subtitle=subtitle,
        summary=summary,
        tables=[(next(parts), table) for table in tables],
        notes=notes,
        figures=[(next(parts), picture) for picture in pictures],
        run=run,
        data=data,
        recipe=[(next(parts), table) for table in recipe],
        citations=[*citations, PACKAGE_CITATION],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
        # mkstemp makes private files; a report is for everyone who may read the folder.
        Path(aside).chmod(0o644)
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    return path


def format_value(value) -> str:
    """A table cell as text: floats with four significant digits, None and NaN as a dash, true minus signs."""
    if value is None or (_is_float(value) and math.isnan(value)) or value in ("nan", "nan ± nan"):
        return "–"
    if _is_float(value):
        text = f"{value:.4g}"
        return text.replace("-", "−", 1) if text.startswith("-") else text
    return str(value)


def _is_float(value) -> bool:
    return isinstance(value, float) or (hasattr(value, "dtype") and value.dtype.kind == "f")


def _is_numeric(value) -> bool:
    if isinstance(value, str):
        return _NUMBER.fullmatch(format_value(value)) is not None
    return value is None or isinstance(value, int | float) or hasattr(value, "dtype")


def _anchors(parts: Sequence[tuple[str, str]]) -> list[str]:
    """Identifiers to link to, made of kind and title; equal titles are numbered."""
    anchors = []
    for kind, title in parts:
        anchor = f"{kind}-{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')}".strip("-")
        same = sum(re.fullmatch(rf"{re.escape(anchor)}(-{kind}-\d+)?", other) is not None for other in anchors)
        anchors.append(f"{anchor}-{kind}-{same + 1}" if same else anchor)
    return anchors


def _picture(title: str, caption: str, figure, dpi: int) -> dict:
    if isinstance(figure, Figure):
        buffer = io.BytesIO()
        save_png(figure, buffer, dpi)
        data = buffer.getvalue()
    elif isinstance(figure, str | os.PathLike):
        data = _read_png(Path(figure))
    else:
        raise TypeError(f"figures: expected a matplotlib Figure or the path of a PNG file, got {type(figure)}.")
    width, height = struct.unpack(">II", data[16:24])
    return {
        "title": title[:1].upper() + title[1:],
        "caption": caption,
        "source": "data:image/png;base64," + base64.b64encode(data).decode("ascii"),
        "width": width,
        "height": height,
    }


def _read_png(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"figures: no such file, {path}; write it with save_figures first.")
    data = path.read_bytes()
    if not data.startswith(_PNG_SIGNATURE) or len(data) < 24:
        raise ValueError(f"figures: expected a PNG file, got another format in {path}.")
    return data
