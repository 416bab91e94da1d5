"""Turn Ctrl-C and the scheduler's SIGTERM into a clean end of training."""

import logging
import signal
import threading

logger = logging.getLogger(__name__)


class Interruption:
    """Context in which the first Ctrl-C (or SIGTERM) is noted instead of raised; the second one raises.

    The training loop looks at `received` after every step. Outside the main thread, where Python allows no
    signal handlers, it does nothing.

    Example:
        >>> with Interruption() as interruption:
        ...     interruption.received is None
        True
    """

    def __init__(self):
        self.received = None
        self._previous = {}

    def __enter__(self):
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception):
        """Put the previous handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        logger.warning("%s: finishing this step, then saving. Once more to stop at once.", self.received.name)
