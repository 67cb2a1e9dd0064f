"""Synchronous data-parallel training on several GPUs and machines.

Each device (replica) holds a copy of every variable and computes gradients on a part of the batch.
All replicas apply the same update, from the sum of the gradients.
"""

import json
import logging
import os

import tensorflow as tf

from trainer.common.errors import UserError
from trainer.config import TrainConfig


def strategy_for(config: TrainConfig) -> tf.distribute.Strategy:
    """Return the strategy for the machines in TF_CONFIG and up to --num_gpu GPUs of each.

    Raises:
        UserError: TF_CONFIG is invalid, or --require_gpu is set and fewer than --num_gpu GPUs were
            found.
    """
    gpus = tf.config.list_physical_devices("GPU")[: config.num_gpu]
    if config.require_gpu and len(gpus) < config.num_gpu:
        raise UserError(
            f"TensorFlow found {len(gpus)} GPUs, expected {config.num_gpu} (--require_gpu, "
            f"--num_gpu={config.num_gpu}). Check that the machine, container or pod was given its "
            "GPUs and that nvidia-smi lists them there, and that the image contains CUDA: it is "
            "built with VARIANT=gpu."
        )
    tf.config.set_visible_devices(gpus, "GPU")
    if not gpus and config.num_gpu:
        logging.info("Training on the CPU: no GPU was found.")
    elif len(gpus) < config.num_gpu:
        logging.info("Training on %d of --num_gpu=%d GPUs.", len(gpus), config.num_gpu)
    if "cluster" in os.environ.get("TF_CONFIG", ""):
        return _multi_worker_strategy()
    if len(gpus) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def _multi_worker_strategy():
    try:
        cluster = json.loads(os.environ["TF_CONFIG"])
        workers = cluster["cluster"]["worker"]
        if not 0 <= cluster["task"]["index"] < len(workers):
            raise ValueError(f"there is no worker {cluster['task']['index']}")
        if cluster["task"]["type"] != "worker":
            raise ValueError(f"the task's type is {cluster['task']['type']!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            "TF_CONFIG must be a JSON object with cluster.worker, a list of host:port, and task, "
            f"of type worker and an index in that list; got {os.environ['TF_CONFIG']!r} ({error})."
        ) from error
    return tf.distribute.MultiWorkerMirroredStrategy()


def worker(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Index of this process among the workers, from 0, and the number of workers."""
    resolver = strategy.cluster_resolver
    if resolver is None or resolver.task_id is None:
        return 0, 1
    return resolver.task_id, len(resolver.cluster_spec().as_dict()["worker"])


def num_local(strategy: tf.distribute.Strategy) -> int:
    """Number of replicas in this process."""
    return strategy.num_replicas_in_sync // worker(strategy)[1]


def split(strategy: tf.distribute.Strategy, batch: dict, batch_size: int) -> dict:
    """Split a batch of this process, `batch_size` videos to each of its replicas in turn."""
    # Not the ids: GPUs do not support strings.
    batch = {name: batch[name] for name in batch if name not in ("id", "location")}
    if strategy.num_replicas_in_sync == 1:
        return batch
    first = worker(strategy)[0] * num_local(strategy)

    def part(context):
        number = context.replica_id_in_sync_group - first
        rows = slice(number * batch_size, (number + 1) * batch_size)
        return tf.nest.map_structure(lambda values: values[rows], batch)

    return strategy.experimental_distribute_values_from_function(part)


def first(strategy: tf.distribute.Strategy, results):
    """Results of this process' first replica, from what `strategy.run` returned."""
    if strategy.num_replicas_in_sync == 1:
        return results
    return tf.nest.map_structure(
        lambda result: strategy.experimental_local_results(result)[0], results
    )
