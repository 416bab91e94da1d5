"""Workers find each other before TensorFlow does, which would wait for an hour and then not say for whom."""

import contextlib
import errno
import json
import select
import socket
import time

from keras_cosmo.training.cluster import Cluster

LONGEST_LINE = 65536
RETRY_SECONDS = 0.2


def meet(cluster: Cluster, seconds: float, purpose: str = "") -> None:
    """Return when all workers are there.

    Every worker listens on its own port, which shows that the port is free, and tells the chief what it came for;
    the chief answers when all are there. Then the ports are free again, for TensorFlow.

    Args:
        cluster: Of this process.
        seconds: How long to wait.
        purpose: What this worker was started for; all must have come for the same.

    Raises:
        OSError: If the port is in use.
        TimeoutError: If a worker does not come; the message names it.
        ValueError: If a worker came for another purpose.

    Example:
        >>> meet(Cluster(("localhost:1",)), seconds=1.0)  # alone
    """
    if cluster.count == 1:
        return
    deadline = time.monotonic() + seconds
    with _listen(cluster) as listener:
        if cluster.is_chief:
            _gather(cluster, listener, deadline, seconds, purpose)
        else:
            _announce(cluster, deadline, seconds, purpose)


def _listen(cluster):
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1" if cluster.host in ("127.0.0.1", "localhost") else "", cluster.port))
        listener.listen(cluster.count)
    except OSError as error:
        listener.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise OSError(
            f"Port {cluster.port} of {cluster.host} is in use: worker {cluster.index} cannot listen on it. Give the "
            "workers other ports, or end what uses it."
        ) from error
    return listener


def _gather(cluster, listener, deadline, seconds, purpose):
    here = {}
    with contextlib.ExitStack() as stack:
        while len(here) < cluster.count - 1:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([listener], [], [], left)[0]:
                away = [f"{n} ({cluster.addresses[n]})" for n in range(1, cluster.count) if n not in here]
                message = (
                    f"Worker {', '.join(away)} did not come within {seconds:g} s. See what it printed, and start all "
                    "workers with the same command."
                )
                _tell(here, message)
                raise TimeoutError(message)
            connection = stack.enter_context(listener.accept()[0])
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                number, other = json.loads(_read_line(connection))
            except (ValueError, TypeError, OSError):
                # Whatever knocked on this port, it is no worker.
                continue
            here[number] = connection
            if other != purpose:
                message = (
                    f"Worker {number} ({cluster.addresses[number]}) was started with other flags or another version: "
                    f"{other}; the chief with {purpose}. Start all workers with the same command."
                )
                _tell(here, message)
                raise ValueError(message)
        _tell(here, "")


def _announce(cluster, deadline, seconds, purpose):
    host, _, port = cluster.addresses[0].rpartition(":")
    chief = f"Worker 0, the chief ({cluster.addresses[0]})"
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(
                f"{chief} did not come within {seconds:g} s. See what it printed, and start all workers with the same "
                "command."
            )
        try:
            with socket.create_connection((host, int(port)), timeout=left) as connection:
                connection.sendall(json.dumps([cluster.index, purpose]).encode() + b"\n")
                # The chief has the same deadline; its message is the better one.
                connection.settimeout(left + 2.0)
                message = json.loads(_read_line(connection))
        except (ValueError, OSError):
            # Not there yet, or something else was.
            time.sleep(min(RETRY_SECONDS, max(0.0, left)))
            continue
        if message:
            raise ValueError(message)
        return


def _tell(connections, message):
    for connection in connections.values():
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps(message).encode() + b"\n")


def _read_line(connection) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < LONGEST_LINE:
        received = connection.recv(4096)
        if not received:
            break
        line += received
    return line
