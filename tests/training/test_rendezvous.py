import concurrent.futures
import re
import socket
import threading
import time

import pytest

from keras_cosmo.training.cluster import Cluster, local_addresses
from keras_cosmo.training.rendezvous import meet


def together(clusters, seconds=20.0, purposes=None):
    """What `meet` returned or raised in every worker."""
    purposes = purposes or ["train"] * len(clusters)
    with concurrent.futures.ThreadPoolExecutor(len(clusters)) as pool:
        futures = [pool.submit(meet, one, seconds, why) for one, why in zip(clusters, purposes, strict=True)]
        return [future.exception(timeout=60) for future in futures]


def test_all_meet_and_leave_their_ports():
    addresses = local_addresses(4)
    clusters = [Cluster(addresses, index) for index in range(4)]
    assert together(clusters) == [None] * 4
    assert together(clusters[::-1]) == [None] * 4  # the same ports again, at once


def test_a_late_chief_is_waited_for():
    clusters = [Cluster(addresses, index) for addresses in [local_addresses(2)] for index in range(2)]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        other = pool.submit(meet, clusters[1], 20.0)
        time.sleep(0.6)
        assert not other.done()
        meet(clusters[0], 20.0)
        assert other.result(timeout=20) is None


def test_alone_nothing_is_waited_for():
    meet(Cluster(("nowhere:1",)), 0.001)


def test_who_did_not_come_is_named():
    addresses = local_addresses(3)
    errors = together([Cluster(addresses, 0), Cluster(addresses, 2)], seconds=1.5)
    expected = rf"Worker 1 \({addresses[1]}\) did not come within 1.5 s"
    for error, kind in zip(errors, (TimeoutError, ValueError), strict=True):
        with pytest.raises(kind, match=expected):
            raise error
    with pytest.raises(TimeoutError, match=rf"Worker 0, the chief \({addresses[0]}\) did not come within 0.5 s"):
        meet(Cluster(addresses, 1), 0.5)


def test_port_in_use():
    addresses = local_addresses(2)
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(addresses[1].rpartition(":")[2])))
        other.listen()
        with pytest.raises(OSError, match=r"Port \d+ of 127.0.0.1 is in use: worker 1 cannot listen on it"):
            meet(Cluster(addresses, 1), 5.0)


def test_other_flags_are_said_to_both():
    addresses = local_addresses(2)
    errors = together([Cluster(addresses, index) for index in range(2)], purposes=["regression", "dust"])
    expected = re.escape(f"Worker 1 ({addresses[1]}) was started with other flags or another version: dust; the chief")
    for error in errors:
        with pytest.raises(ValueError, match=expected):
            raise error


def test_strangers_are_passed_over():
    addresses = local_addresses(2)
    host, port = addresses[0].split(":")

    def knock():
        for words in (b"GET / HTTP/1.0\r\n\r\n\n", b"\n", b"{}\n"):
            for _ in range(50):
                try:
                    with socket.create_connection((host, int(port)), timeout=5.0) as connection:
                        connection.sendall(words)
                        break
                except OSError:
                    time.sleep(0.05)

    stranger = threading.Thread(target=knock)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        chief = pool.submit(meet, Cluster(addresses, 0), 20.0)
        stranger.start()
        stranger.join()
        assert not chief.done()
        meet(Cluster(addresses, 1), 20.0)
        assert chief.result(timeout=20) is None
