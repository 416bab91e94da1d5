"""Progress bars: lively in a terminal, one line now and then in a log file."""

import sys


def bar(**options):
    """A tqdm bar with the pace that suits where it is written to."""
    from tqdm import tqdm

    pace = {"mininterval": 0.5, "dynamic_ncols": True} if sys.stderr.isatty() else {"mininterval": 20.0, "ncols": 100}
    return tqdm(**{**pace, **options})


def progress_callback(unit: str):
    """A function ``progress(done, total)`` that draws a bar with rate and time left.

    What was done before the first call, by an earlier run, does not count for the rate; if that is everything,
    nothing is drawn.

    Args:
        unit: What is counted.
    """
    bars = []

    def progress(done: int, total: int) -> None:
        if not bars:
            if done == total:
                return
            bars.append(bar(total=total, initial=done, unit=unit, smoothing=0.1))
        bars[0].update(done - bars[0].n)
        if done == total:
            bars[0].close()

    return progress
