"""Sums and assignments across replicas, inside a step of `tf.distribute.Strategy.run`."""

import tensorflow as tf


def total(values):
    """Sum of a tensor, or of each tensor in a list, over the replicas."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return values
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)


def assign(variable: tf.Variable, value: tf.Tensor):
    """Set this replica's copy of a variable. All replicas must set the same value."""
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)
