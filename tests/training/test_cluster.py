import json
import socket
import subprocess
import sys

import pytest
import tensorflow as tf

from keras_cosmo.training.cluster import Cluster, cluster_from, local_addresses
from keras_cosmo.training.gpus import visible_gpus

WORKERS = ["a:1000", "b:1000", "b:1001"]


def tf_config(cluster, kind, index):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


def slurm(nodes, tasks, count, rank, **more):
    variables = {
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURM_STEP_NUM_TASKS": str(count),
        "SLURM_PROCID": str(rank),
        "SLURM_JOB_ID": "7",
    }
    return {**variables, **more}


@pytest.mark.parametrize(("index", "host", "port"), [(0, "a", 1000), (1, "b", 1000), (2, "b", 1001)])
def test_tf_config(index, host, port):
    for kind in ("tf_config", "auto"):
        found = cluster_from(tf_config({"worker": WORKERS}, "worker", index), kind)
        assert found == Cluster(tuple(WORKERS), index)
        assert (found.count, found.host, found.port, found.is_chief) == (3, host, port, index == 0)


def test_a_chief_comes_first():
    jobs = {"chief": ["c:1"], "worker": ["a:1", "b:1"]}
    assert cluster_from(tf_config(jobs, "chief", 0)) == Cluster(("c:1", "a:1", "b:1"), 0)
    assert cluster_from(tf_config(jobs, "worker", 1)) == Cluster(("c:1", "a:1", "b:1"), 2)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "the variable TF_CONFIG is not set"),
        ({"TF_CONFIG": "{cluster"}, "TF_CONFIG is malformed.*expected such as.*got {cluster"),
        ({"TF_CONFIG": "[]"}, "TF_CONFIG is malformed"),
        ({"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'}, "TF_CONFIG is malformed.*'task'"),
        (tf_config({"worker": WORKERS}, "worker", 3), "there is no worker 3 in the cluster"),
        (tf_config({"worker": WORKERS}, "worker", -1), "there is no worker -1"),
        (tf_config({"worker": WORKERS}, "evaluator", 0), "there is no evaluator 0"),
        (tf_config({"worker": ["a:1"], "ps": ["b:1"]}, "worker", 0), "expected workers and at most one chief"),
        (tf_config({"worker": ["a", "b:1"]}, "worker", 0), "expected addresses such as 'node1:12345', got 'a'"),
        (tf_config({"worker": ["a:1", "a:1"]}, "worker", 0), "expected every address once"),
    ],
)
def test_malformed_tf_config(environment, message):
    with pytest.raises(ValueError, match=message):
        cluster_from(environment, "tf_config")


@pytest.mark.parametrize(
    ("nodes", "tasks", "count"),
    [("node1", "4", 4), ("n[08-10],m5", "2(x3),1", 7), ("n[1-2],m5,o[3-4,6]", "1(x6)", 6), ("a,b", "3,2", 5)],
)
def test_slurm_equals_the_resolver_of_tensorflow(nodes, tasks, count, monkeypatch):
    """But for the order of the nodes: that one sorts their names."""
    for rank in range(count):
        environment = slurm(nodes, tasks, count, rank)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=12448, gpus_per_node=4, gpus_per_task=1, auto_set_gpu=False
        )
        theirs = resolver.cluster_spec().as_dict()["worker"]
        ours = cluster_from(environment, "slurm")
        assert sorted(ours.addresses) == sorted(theirs)
        assert cluster_from(environment, "auto") == ours
        assert ours.index == rank


def test_slurm_keeps_the_order_of_the_nodes():
    """Task 0 of SLURM is on the first node of its list, which sorting as text would make the second."""
    found = cluster_from(slurm("n[9-10]", "1(x2)", 2, 0, SLURMD_NODENAME="n9"))
    assert found.addresses == ("n9:12448", "n10:12448")
    assert cluster_from(slurm("r[1-2]n[1-2]", "1(x4)", 4, 0)).hosts == ("r1n1", "r1n2", "r2n1", "r2n2")
    assert cluster_from(slurm("a", "2", 2, 1, KERAS_COSMO_PORT="5000")).port == 5001


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SLURM_PROCID": "0"}, "SLURM_STEP_NUM_TASKS, SLURM_STEP_NODELIST, .* not set. Start the workers with srun"),
        (slurm("a,b", "1", 2, 0), r"2 nodes with \[1\] tasks are not 2"),
        (slurm("a[1", "2", 2, 0), "expected nodes such as"),
        (slurm("a", "two", 2, 0), "expected tasks such as"),
        (slurm("a,b", "1(x2)", 2, 1, SLURMD_NODENAME="a"), "task 1 is on a, expected b.*distribution=block"),
    ],
)
def test_malformed_slurm(environment, message):
    with pytest.raises(ValueError, match=message):
        cluster_from(environment, "slurm")


def test_alone_without_either():
    assert cluster_from({}).count == 1
    assert cluster_from({"SLURM_STEP_NUM_TASKS": "1"}).count == 1


def test_local_addresses_are_free_and_differ():
    addresses = local_addresses(5)
    assert len(set(addresses)) == 5
    for address in addresses:
        with socket.socket() as each:
            each.bind(("127.0.0.1", int(address.rpartition(":")[2])))


def test_no_such_worker():
    with pytest.raises(ValueError, match="there are numbers 0 to 1, got 2"):
        Cluster(("a:1", "b:1"), 2)


def test_gpus(monkeypatch):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0, GPU-7f"}) == ["0", "GPU-7f"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    listed = subprocess.CompletedProcess([], 0, "GPU 0: H100 (UUID: GPU-1)\nGPU 1: H100 (UUID: GPU-2)\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: listed)
    assert visible_gpus({}) == ["0", "1"]

    def none(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", none)
    assert visible_gpus({}) == []


def test_tensorflow_is_not_imported():
    code = "import sys, keras_cosmo.training.rendezvous, keras_cosmo.tasks.workers; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
