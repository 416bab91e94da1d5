"""The processes that train one network together, as one of them sees them."""

import json
import os

import numpy as np
import tensorflow as tf

from keras_cosmo.training.cluster import Cluster
from keras_cosmo.training.worker_lost import worker_lost_as_such

# Numbers that are exchanged at once.
SHORT, LONG = 8, 4096


class Workers:
    """Starts TensorFlow's server of this process, waits for the others, and passes messages from the chief to them.

    Only one can be made in a process, before TensorFlow does anything else. All workers must call the same methods in
    the same order.

    Args:
        cluster: Of this process, after `keras_cosmo.training.rendezvous.meet`.

    Attributes:
        strategy: ``tf.distribute.MultiWorkerMirroredStrategy``.
        index, count, is_chief: As of the cluster.
        busy: Whether the others take part in what this process does, so that a message would not reach them.

    Raises:
        ValueError: If several workers of one machine would share a GPU.
        RuntimeError: If TensorFlow was used before.
    """

    def __init__(self, cluster: Cluster):
        _check_devices(cluster)
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
            task_type="worker",
            task_id=cluster.index,
            rpc_layer="grpc",
        )
        self.index, self.count, self.is_chief = cluster.index, cluster.count, cluster.is_chief
        self.busy = False
        with worker_lost_as_such("the workers were connecting"):
            self.strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
        self._replicas_here = len(self.strategy.extended.worker_devices)
        # A graph made once has the same keys on all workers, whatever else they do before they call it.
        self._sums = tf.function(self._reduce)

    def sums(self, values) -> np.ndarray:
        """Element-wise sums over all workers of numbers that float32 holds exactly; waits for all of them."""
        # Of two sizes only, so that there are two graphs.
        padded = np.zeros(SHORT if len(values) <= SHORT else LONG, np.float32)
        padded[: len(values)] = values
        with worker_lost_as_such("waiting for the others"):
            return self._sums(tf.constant(padded)).numpy()[: len(values)] / self._replicas_here

    def tell(self, message=None):
        """The chief's message, on all workers.

        Args:
            message: What can be written as JSON, on the chief; others give None.
        """
        content = json.dumps(message).encode() if self.is_chief else b""
        size = int(self.sums([len(content)])[0])
        numbers = np.zeros(size, np.float32)
        numbers[: len(content)] = np.frombuffer(content, np.uint8)
        parts = [self.sums(numbers[first : first + LONG]) for first in range(0, size, LONG)]
        return json.loads(np.concatenate(parts).astype(np.uint8).tobytes())

    def _reduce(self, values):
        def add():
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(values))

        return self.strategy.experimental_local_results(self.strategy.run(add))[0]


def _check_devices(cluster):
    neighbours = cluster.hosts.count(cluster.host)
    if neighbours > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ and tf.config.list_physical_devices("GPU"):
        raise ValueError(
            f"{neighbours} workers on {cluster.host} would share its GPUs: give each its own with "
            "CUDA_VISIBLE_DEVICES (srun --gpus-per-task=1 does), or set it to -1 to train without."
        )
