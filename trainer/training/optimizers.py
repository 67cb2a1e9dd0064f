"""The optimizers of the original's TensorFlow, by TensorFlow's own fused update operations.

Each updates one variable in one pass, with the defaults that tf.compat.v1.train gives the class of
that name, called with the learning rate only. Keras' optimizers differ in these defaults (epsilon,
initial accumulators) and take several passes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

ops = tf.raw_ops
MOMENTUM = 0.9  # MomentumOptimizer's, whose class has no default
WEIGHT_DECAY = 0.004  # AdamWOptimizer's, as Keras' AdamW


@dataclass(frozen=True)
class Rule:
    """How one variable is updated.

    Attributes:
        slots: what is kept beside a variable: name -> initial value.
        update: called with the variable, its slots (name -> variable), its gradient, the learning
            rate and the number of this update, from 1, as a float.
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


def _adamw(variable, slots, gradient, learning_rate, step):
    """Loshchilov and Hutter 2019, arXiv:1711.05101: weight decay apart from the gradient."""
    variable.assign_sub(learning_rate * WEIGHT_DECAY * variable)
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


def _momentum(variable, slots, gradient, learning_rate, step):
    ops.ResourceApplyMomentum(
        var=variable.handle,
        accum=slots["momentum"].handle,
        lr=learning_rate,
        grad=gradient,
        momentum=MOMENTUM,
    )


def _proximal_gradient_descent(variable, slots, gradient, learning_rate, step):
    ops.ResourceApplyProximalGradientDescent(
        var=variable.handle, alpha=learning_rate, l1=0.0, l2=0.0, delta=gradient
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


# Every optimizer that --optimizer can name; config.py lists the names.
OPTIMIZERS = {
    "AdadeltaOptimizer": Rule({"accumulator": 0.0, "update_accumulator": 0.0}, _adadelta),
    "AdagradOptimizer": Rule({"accumulator": 0.1}, _adagrad),
    "AdamOptimizer": Rule({"m": 0.0, "v": 0.0}, _adam),
    "AdamWOptimizer": Rule({"m": 0.0, "v": 0.0}, _adamw),
    "FtrlOptimizer": Rule({"accumulator": 0.1, "linear": 0.0}, _ftrl),
    "GradientDescentOptimizer": Rule({}, _gradient_descent),
    "MomentumOptimizer": Rule({"momentum": 0.0}, _momentum),
    "ProximalAdagradOptimizer": Rule({"accumulator": 0.1}, _proximal_adagrad),
    "ProximalGradientDescentOptimizer": Rule({}, _proximal_gradient_descent),
    "RMSPropOptimizer": Rule({"mean_square": 1.0, "momentum": 0.0}, _rms_prop),
}


class Optimizer(tf.Module):
    """An optimizer of OPTIMIZERS with its slots for a list of variables."""

    def __init__(self, name: str, variables: list[tf.Variable]):
        super().__init__()
        self._update = OPTIMIZERS[name].update
        self._variables = variables
        self.slots = [
            {
                slot: tf.Variable(tf.fill(variable.shape, initial), trainable=False)
                for slot, initial in OPTIMIZERS[name].slots.items()
            }
            for variable in variables
        ]

    def apply(self, gradients: list[tf.Tensor], learning_rate: tf.Tensor, step: tf.Tensor):
        """Updates each variable by its gradient; `step` counts the updates from 1."""
        step = tf.cast(step, tf.float32)
        for variable, slots, gradient in zip(self._variables, self.slots, gradients, strict=True):
            self._update(variable, slots, gradient, learning_rate, step)


def learning_rate(config, step: tf.Tensor, batch_size: int) -> tf.Tensor:
    """base * decay ^ floor(examples before this step / examples between two decays).

    Args:
        config: a TrainConfig.
        step: updates done before this one, int64.
        batch_size: examples a step, of all replicas.
    """
    examples = tf.cast(step, tf.float64) * batch_size
    stairs = tf.floor(examples / config.learning_rate_decay_examples)
    decay = tf.pow(tf.constant(config.learning_rate_decay, tf.float64), stairs)
    return tf.cast(config.base_learning_rate * decay, tf.float32)


def norm(gradient: tf.Tensor) -> tf.Tensor:
    """The L2 norm of a tensor. As tf.norm, in one pass."""
    return tf.sqrt(2 * tf.nn.l2_loss(gradient))


def clip_each(
    gradients: list[tf.Tensor], norms: list[tf.Tensor], max_norm: float
) -> list[tf.Tensor]:
    """Each gradient scaled down to `max_norm` where its own L2 norm is larger; 0: as they are."""
    if max_norm == 0:
        return gradients
    return [
        # A condition, because most gradients are short, and scaling is a pass over all of one.
        tf.cond(
            norm > max_norm, lambda g=gradient, n=norm: g * (max_norm / n), lambda g=gradient: g
        )
        for gradient, norm in zip(gradients, norms, strict=True)
    ]
