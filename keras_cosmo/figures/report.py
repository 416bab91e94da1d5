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
from collections.abc import Sequence
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from keras_cosmo.figures.style import save_png

_NUMBER = re.compile(r"[-+−]?\d[\d.,]*(e[-+]?\d+)?( ± \d[\d.,]*)?%?|–")
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

    Raises:
        ValueError: If a row has more or fewer cells than the header.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence]
    note: str = ""

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
    figures: Sequence[tuple[str, str, object]] = (),
    citations: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    dpi: int = 110,
) -> Path:
    """Write a self-contained page: figures are embedded, styles are inline, no script and no network is needed.

    The page is written aside and renamed, so an older report stays whole until the new one is.

    Args:
        path: File to write; its folder is made if missing.
        title: Heading of the page.
        subtitle: One line below it.
        summary: Pairs of label and value, shown as tiles.
        tables: Tables, in order.
        figures: Triples of title, caption and a Matplotlib Figure or the path of a PNG file, in order.
        citations: Pairs of text and BibTeX entry.
        notes: Paragraphs of plain text, such as what the numbers do not say.
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
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = format_value
    environment.tests["numeric"] = _is_numeric
    template = importlib.resources.files("keras_cosmo.figures").joinpath("report.html").read_text("utf-8")
    page = environment.from_string(template).render(
        title=title,
        subtitle=subtitle,
        summary=summary,
        tables=tables,
        figures=pictures,
        citations=citations,
        notes=notes,
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
    if value is None or (_is_float(value) and math.isnan(value)):
        return "–"
    if _is_float(value):
        text = f"{value:.4g}"
        return text.replace("-", "−", 1) if text.startswith("-") else text
    return str(value)


def _is_float(value) -> bool:
    return isinstance(value, float) or (hasattr(value, "dtype") and value.dtype.kind == "f")


def _is_numeric(value) -> bool:
    if isinstance(value, str):
        return _NUMBER.fullmatch(value) is not None
    return value is None or isinstance(value, int | float) or hasattr(value, "dtype")


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
        "title": title,
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
