"""Files that are complete or absent, and arrays on disk."""

import contextlib
import pathlib


@contextlib.contextmanager
def written_aside(path, advice="continue with --resume"):
    """Context that yields a path beside ``path`` to write to, and renames it when all went well.

    A kill leaves at most ``<stem>.partial<suffix>``; an error leaves nothing.

    Args:
        path: File to write.
        advice: What to do after making room, for the error message.

    Raises:
        OSError: If the file cannot be written; the message names it and says what to do.

    Example:
        >>> import tempfile
        >>> target = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
        >>> with written_aside(target) as aside:
        ...     _ = aside.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    path = pathlib.Path(path)
    aside = path.with_name(path.stem + ".partial" + path.suffix)
    try:
        yield aside
        aside.replace(path)
    except OSError as error:
        raise OSError(
            f"Could not write {path}: {error.strerror or error}. Is the disk full, or the folder not writable? "
            f"Make room, then {advice}."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def disk_array(shape: tuple[int, ...]):
    """Float32 array in a temporary file that goes with it, for what may be larger than the memory that is left.

    Args:
        shape: Of the array, which starts as zeros.

    The file is in the folder that ``TMPDIR`` names, which on some machines is memory.

    Raises:
        OSError: If there is no room for all of it.
    """
    import math
    import os
    import tempfile

    import numpy as np

    # The map stays when the file is closed.
    with tempfile.TemporaryFile() as file:
        size = 4 * math.prod(shape)
        # Else a full disk would end the process at the first write that has no room.
        if size and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                raise OSError(
                    f"No room for {size / 1e9:.3g} GB in {tempfile.gettempdir()} ({error.strerror}). Make room, or set "
                    "TMPDIR to a folder that has some."
                ) from error
        return np.memmap(file, np.float32, "w+", shape=shape)
