"""Which processes train together: read from TF_CONFIG or SLURM, or made for this machine. Imports no TensorFlow."""

import dataclasses
import itertools
import json
import re
import socket

# One job's workers on one node take neighbouring ports; the system hands out its own from 32768 on.
FIRST_PORT, PORTS_PER_JOB, JOBS = 12000, 64, 320
PORT_VARIABLE = "KERAS_COSMO_PORT"

WORKER_LOST_STATUS = 75
"""Exit status of a job that lost a worker and can be continued as it is: EX_TEMPFAIL of sysexits.h, "try again"."""

SLURM_VARIABLES = ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE", "SLURM_PROCID")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Addresses of all workers, and which of them this process is. Worker 0 is the chief.

    Args:
        addresses: "host:port" of every worker.
        index: Of this process.

    Raises:
        ValueError: If an address is malformed or comes twice, or there is no such index.

    Example:
        >>> cluster = Cluster(("node1:12345", "node2:12345"), index=1)
        >>> cluster.count, cluster.is_chief, cluster.host, cluster.port
        (2, False, 'node2', 12345)
    """

    addresses: tuple[str, ...]
    index: int = 0

    def __post_init__(self):
        for address in self.addresses:
            host, _, port = str(address).rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError(f"workers: expected addresses such as 'node1:12345', got {address!r}.")
        if len(set(self.addresses)) < len(self.addresses):
            raise ValueError(f"workers: expected every address once, got {', '.join(self.addresses)}.")
        if not 0 <= self.index < len(self.addresses):
            raise ValueError(f"workers: there are numbers 0 to {len(self.addresses) - 1}, got {self.index}.")

    @property
    def count(self) -> int:
        """Number of workers."""
        return len(self.addresses)

    @property
    def is_chief(self) -> bool:
        """Whether this is the process that writes the run folder."""
        return self.index == 0

    @property
    def host(self) -> str:
        """Host of this worker."""
        return self.addresses[self.index].rpartition(":")[0]

    @property
    def port(self) -> int:
        """Port of this worker."""
        return int(self.addresses[self.index].rpartition(":")[2])

    @property
    def hosts(self) -> tuple[str, ...]:
        """Host of every worker."""
        return tuple(address.rpartition(":")[0] for address in self.addresses)


def cluster_from(environment: dict, kind: str = "auto") -> Cluster:
    """The cluster that the environment describes.

    Args:
        environment: Such as ``os.environ``.
        kind: "tf_config", "slurm", or "auto" for what is there; where there is neither, "auto" is one worker alone.

    Raises:
        ValueError: If variables are missing or malformed; the message says which, and what to do.
    """
    if kind == "tf_config" or (kind == "auto" and environment.get("TF_CONFIG")):
        return _from_tf_config(environment)
    if kind == "slurm" or (kind == "auto" and int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1):
        return _from_slurm(environment)
    return Cluster(("localhost:1",))


def local_addresses(count: int) -> tuple[str, ...]:
    """Loopback addresses with ports that are free at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
    finally:
        for each in sockets:
            each.close()


def _from_tf_config(environment):
    text = environment.get("TF_CONFIG", "")
    example = '{"cluster": {"worker": ["node1:12345", "node2:12345"]}, "task": {"type": "worker", "index": 0}}'
    if not text:
        raise ValueError(f"--workers tf_config: the variable TF_CONFIG is not set. Expected such as {example}.")
    try:
        config = json.loads(text)
        jobs = {job: tuple(addresses) for job, addresses in config["cluster"].items()}
        job, number = config["task"]["type"], int(config["task"]["index"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"TF_CONFIG is malformed ({error!r}): expected such as {example}, got {text}.") from error
    if not set(jobs) <= {"chief", "worker"} or len(jobs.get("chief", ())) > 1:
        raise ValueError(f"TF_CONFIG: expected workers and at most one chief, got {config['cluster']}.")
    if not 0 <= number < len(jobs.get(job, ())):
        raise ValueError(f"TF_CONFIG: there is no {job} {number} in the cluster {config['cluster']}.")
    chief = jobs.get("chief", ())
    try:
        return Cluster(chief + jobs.get("worker", ()), number + (len(chief) if job == "worker" else 0))
    except ValueError as error:
        raise ValueError(f"TF_CONFIG: {error}") from error


def _from_slurm(environment):
    """As TensorFlow's SlurmClusterResolver, but for the order of the nodes.

    That one sorts their names as text, so that node9 comes after node10, and tasks look for each other on the wrong
    node; here they keep the order of SLURM, which numbers its tasks by it.
    """
    missing = [name for name in SLURM_VARIABLES if name not in environment]
    if missing:
        raise ValueError(f"--workers slurm: {', '.join(missing)} not set. Start the workers with srun inside a job.")
    try:
        count, index = (int(environment[name]) for name in ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"))
        nodes = _expanded_hosts(environment["SLURM_STEP_NODELIST"])
        tasks = _expanded_counts(environment["SLURM_STEP_TASKS_PER_NODE"])
        job = int(environment.get("SLURM_JOB_ID", 0))
        first = int(environment.get(PORT_VARIABLE, FIRST_PORT + job % JOBS * PORTS_PER_JOB))
        if len(nodes) != len(tasks) or sum(tasks) != count:
            raise ValueError(f"{len(nodes)} nodes with {tasks} tasks are not {count} tasks")
    except ValueError as error:
        given = {name: environment[name] for name in SLURM_VARIABLES}
        raise ValueError(f"--workers slurm: malformed variables ({error}), got {given}.") from error
    hosts = [(node, task) for node, number in zip(nodes, tasks, strict=True) for task in range(number)]
    own = environment.get("SLURMD_NODENAME", hosts[index][0] if 0 <= index < count else "")
    if 0 <= index < count and own != hosts[index][0]:
        raise ValueError(
            f"--workers slurm: task {index} is on {own}, expected {hosts[index][0]}. Start the workers with "
            "srun --distribution=block."
        )
    return Cluster(tuple(f"{node}:{first + task}" for node, task in hosts), index)


def _expanded_hosts(text: str) -> list[str]:
    """'n[08-10],m5' -> n08, n09, n10, m5."""
    result, parts = [], re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text)
    for part in parts:
        pieces = [piece for piece in re.split(r"(\[[^\]]*\])", part) if piece]
        choices = [list(_expanded_range(piece[1:-1])) if piece.startswith("[") else [piece] for piece in pieces]
        result += ["".join(choice) for choice in itertools.product(*choices)]
    if not result or ",".join(parts) != text:
        raise ValueError(f"expected nodes such as 'node[01-04]', got {text!r}")
    return result


def _expanded_range(text: str):
    for part in text.split(","):
        low, _, high = part.partition("-")
        yield from (str(number).zfill(len(low)) for number in range(int(low), int(high or low) + 1))


def _expanded_counts(text: str) -> list[int]:
    """'3(x2),1' -> 3, 3, 1."""
    result = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise ValueError(f"expected tasks such as '2(x3),1', got {text!r}")
        result += [int(match[1])] * int(match[2] or 1)
    return result
