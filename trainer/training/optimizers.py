"""Optimizers, as TensorFlow's own fused update operations.

Each updates a variable in one pass over memory, with the defaults of the class of that name in
tf.compat.v1.train. Keras' optimizers have other defaults (epsilon, initial accumulators) and need
several passes.
"""

import math
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from trainer.training import registry

ops = tf.raw_ops


@dataclass(frozen=True)
class Rule:
    """Update rule of an optimizer.

    Attributes:
        slots: the variables kept for each weight: name -> initial value.
        update: function (variable, slots, gradient, learning_rate, step, **hyperparameters), which
            updates the variable and its slots (name -> variable). `step` counts from 1, as a float.
    """

    slots: dict[str, float]
    update: Callable


def _adam(variable, slots, gradient, learning_rate, step):
    ops.ResourceApplyAdam(
        var=variable.handle,
        m=slots["m"].handle,
        v=slots["v"].handle,
        beta1_power=tf.pow(0.9, step),
        beta2_power=tf.pow(0.999, step),
        lr=learning_rate,
        beta1=0.9,
        beta2=0.999,
        epsilon=1e-8,
        grad=gradient,
    )


def _adamw(variable, slots, gradient, learning_rate, step, weight_decay):
    """Loshchilov and Hutter 2019, arXiv:1711.05101: decoupled weight decay."""
    variable.assign_sub(learning_rate * weight_decay * variable)
    _adam(variable, slots, gradient, learning_rate, step)


def _adagrad(variable, slots, gradient, learning_rate, step):
    ops.ResourceApplyAdagrad(
        var=variable.handle, accum=slots["accumulator"].handle, lr=learning_rate, grad=gradient
    )


def _adadelta(variable, slots, gradient, learning_rate, step):
    ops.ResourceApplyAdadelta(
        var=variable.handle,
        accum=slots["accumulator"].handle,
        accum_update=slots["update_accumulator"].handle,
        lr=learning_rate,
        rho=0.95,
        epsilon=1e-8,
        grad=gradient,
    )


def _rms_prop(variable, slots, gradient, learning_rate, step):
    ops.ResourceApplyRMSProp(
        var=variable.handle,
        ms=slots["mean_square"].handle,
        mom=slots["momentum"].handle,
        lr=learning_rate,
        rho=0.9,
        momentum=0.0,
        epsilon=1e-10,
        grad=gradient,
    )


def _ftrl(variable, slots, gradient, learning_rate, step):
    ops.ResourceApplyFtrl(
        var=variable.handle,
        accum=slots["accumulator"].handle,
        linear=slots["linear"].handle,
        grad=gradient,
        lr=learning_rate,
        l1=0.0,
        l2=0.0,
        lr_power=-0.5,
    )


def _gradient_descent(variable, slots, gradient, learning_rate, step):
    ops.ResourceApplyGradientDescent(var=variable.handle, alpha=learning_rate, delta=gradient)


def _momentum(variable, slots, gradient, learning_rate, step, momentum):
    ops.ResourceApplyMomentum(
        var=variable.handle,
        accum=slots["momentum"].handle,
        lr=learning_rate,
        grad=gradient,
        momentum=momentum,
    )


def _proximal_adagrad(variable, slots, gradient, learning_rate, step):
    ops.ResourceApplyProximalAdagrad(
        var=variable.handle,
        accum=slots["accumulator"].handle,
        lr=learning_rate,
        l1=0.0,
        l2=0.0,
        grad=gradient,
    )


# registry.OPTIMIZERS refers to these.
ADADELTA = Rule({"accumulator": 0.0, "update_accumulator": 0.0}, _adadelta)
ADAGRAD = Rule({"accumulator": 0.1}, _adagrad)
ADAM = Rule({"m": 0.0, "v": 0.0}, _adam)
ADAMW = Rule({"m": 0.0, "v": 0.0}, _adamw)
FTRL = Rule({"accumulator": 0.1, "linear": 0.0}, _ftrl)
GRADIENT_DESCENT = Rule({}, _gradient_descent)
MOMENTUM = Rule({"momentum": 0.0}, _momentum)
PROXIMAL_ADAGRAD = Rule({"accumulator": 0.1}, _proximal_adagrad)
# Without l1 and l2 it is gradient descent; TensorFlow's own operation has no GPU kernel.
PROXIMAL_GRADIENT_DESCENT = GRADIENT_DESCENT
RMS_PROP = Rule({"mean_square": 1.0, "momentum": 0.0}, _rms_prop)


class Optimizer:
    """An optimizer and its slots for a list of variables.

    Args:
        name: name in registry.OPTIMIZERS.
        variables: the variables to update.
        flags: flag name -> value; hyperparameters that are missing have their defaults.
    """

    def __init__(self, name: str, variables: list[tf.Variable], flags: dict | None = None):
        entry = registry.OPTIMIZERS[name]
        rule = pkgutil.resolve_name(entry.rule)
        given = flags or {}
        self._hyperparameters = {f.name: given.get(f.name, f.default) for f in entry.flags}
        self._update = rule.update
        self._variables = variables
        self.slots = [
            {
                slot: tf.Variable(tf.fill(variable.shape, initial), trainable=False)
                for slot, initial in rule.slots.items()
            }
            for variable in variables
        ]

    def apply(self, gradients: list[tf.Tensor], learning_rate: tf.Tensor, step: tf.Tensor):
        """Update each variable by its gradient; `step` counts the updates from 1."""
        step = tf.cast(step, tf.float32)
        for variable, slots, gradient in zip(self._variables, self.slots, gradients, strict=True):
            self._update(variable, slots, gradient, learning_rate, step, **self._hyperparameters)


def learning_rate(config, step: tf.Tensor, examples: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
    """Learning rate of a step: the schedule's, times that of the warm-up.

    staircase: base * decay ^ floor(examples seen / examples per decay)
    cosine: base * (1 + cos(pi * (epoch + 1/2) / epochs)) / 2; by epochs because the number of
        examples is unknown before the first one ends.

    Args:
        config: a TrainConfig.
        step: number of updates before this one, int64.
        examples: number of examples seen before this step, by all replicas, int64.
        epoch: number of complete epochs, int64.
    """
    if config.learning_rate_schedule == "cosine":
        done = (tf.cast(epoch, tf.float64) + 0.5) / config.num_epochs
        factor = (1 + tf.cos(math.pi * done)) / 2
    else:
        num_decays = tf.floor(tf.cast(examples, tf.float64) / config.learning_rate_decay_examples)
        factor = tf.pow(tf.constant(config.learning_rate_decay, tf.float64), num_decays)
    if config.warmup_steps:
        factor *= tf.minimum((tf.cast(step, tf.float64) + 1) / config.warmup_steps, 1)
    return tf.cast(config.base_learning_rate * factor, tf.float32)


def norm(gradient: tf.Tensor) -> tf.Tensor:
    """L2 norm of a tensor, as tf.norm, in one pass over memory."""
    return tf.sqrt(2 * tf.nn.l2_loss(gradient))


def clip_each(
    gradients: list[tf.Tensor], norms: list[tf.Tensor], max_norm: float
) -> list[tf.Tensor]:
    """Clip the L2 norm of each gradient, given in `norms`, to `max_norm`; 0 disables clipping."""
    if max_norm == 0:
        return gradients
    # tf.clip_by_norm scales every gradient, even by 1, and computes its norm again.
    return [
        tf.cond(
            norm > max_norm, lambda g=gradient, n=norm: g * (max_norm / n), lambda g=gradient: g
        )
        for gradient, norm in zip(gradients, norms, strict=True)
    ]
