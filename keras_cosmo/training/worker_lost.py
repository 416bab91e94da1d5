"""The error of a job whose worker died."""

import contextlib
import re

import tensorflow as tf

from keras_cosmo.training.cluster import WORKER_LOST_STATUS

LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)
"""What TensorFlow raises when a worker is gone."""

# These it raises for other reasons too.
_PERHAPS_LOST = (tf.errors.InternalError, tf.errors.FailedPreconditionError)
_OF_A_WORKER = re.compile(r"task:\d|collective|socket|connect|heartbeat", re.IGNORECASE)


class WorkerLost(RuntimeError):
    """A worker, or the way to it, was lost; what was trained up to the last checkpoint is there."""

    exit_status = WORKER_LOST_STATUS


@contextlib.contextmanager
def worker_lost_as_such(doing: str):
    """Context that turns what TensorFlow raises when a worker dies into `WorkerLost`.

    Args:
        doing: What was being done, for the message.

    Raises:
        WorkerLost: For errors of the connection between workers; others are passed on.
    """
    try:
        yield
    except (*LOST, *_PERHAPS_LOST) as error:
        message = str(error)
        if isinstance(error, _PERHAPS_LOST) and not _OF_A_WORKER.search(message):
            raise
        found = re.search(r"/task:(\d+)", message)
        which = f"Worker {found[1]}" if found else "A worker"
        raise WorkerLost(f"{which} was lost while {doing}. Continue with the same command and --resume.") from error
