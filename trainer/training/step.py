"""The model, the optimizer and the train step."""

import contextlib
from typing import NamedTuple

import keras
import tensorflow as tf

from trainer.common import replicas
from trainer.config import TrainConfig
from trainer.data import input_pipeline
from trainer.models import kernels, registry
from trainer.models.layers import RandomSeeds
from trainer.training import distribution, losses, optimizers, regularization


class Step(NamedTuple):
    """A step that was started.

    Attributes:
        batch: its videos.
        epoch: their epoch, from 0.
        wait_seconds: how long the step waited for the batch.
        result: what `Trainer.step` returned, which may still be computed.
    """

    batch: dict
    epoch: int
    wait_seconds: float
    result: dict


class Trainer:
    """Model, optimizer and step counter of a training run.

    Attributes:
        model: the model.
        weights: the trainable variables of the model.
        variables: all variables that a checkpoint must hold, by name.
    """

    def __init__(self, config: TrainConfig, strategy: tf.distribute.Strategy):
        # tf.data cannot shuffle by a tensor when TensorFlow's global seed is 0.
        keras.utils.set_random_seed(config.seed + 1)
        self.config = config
        self.strategy = strategy
        self.label_loss = losses.get(config.label_loss)
        with strategy.scope():
            self.model = registry.create(config.model_flags, config.mixed_precision)
            self._trainable = self.model.trainable_variables
            self.weights = [weight.value for weight in self._trainable]
            self.optimizer = optimizers.Optimizer(
                config.optimizer, self.weights, config.optimizer_flags
            )
            self.averages = [
                tf.Variable(weight, trainable=False) for weight in self.weights if config.ema_decay
            ]
            self.seeds = RandomSeeds("mixup_seeds") if config.mixup else None
            self.steps = tf.Variable(0, dtype=tf.int64, trainable=False)
            self.examples = tf.Variable(0, dtype=tf.int64, trainable=False)
            # Whether a step was not finite, after which no other may change the variables: the
            # loop learns of it one step later.
            self.failed = tf.Variable(False, trainable=False)
        self.variables = self._variables()
        if hasattr(self.model, "sample_frames"):
            one_gpu = kernels.has_gpu() and strategy.num_replicas_in_sync == 1
            self.model.samples_on_host = one_gpu
        self._step = tf.function(self._replicas_step, jit_compile=config.xla or None)

    def _variables(self) -> dict[str, tf.Variable]:
        variables = registry.variables(self.model)
        for weight, slots in zip(self._trainable, self.optimizer.slots, strict=True):
            variables |= {f"optimizer/{slot}/{weight.path}": v for slot, v in slots.items()}
        # The model in a checkpoint is the averaged one, if there is one.
        for variable, average in zip(self._trainable, self.averages, strict=False):
            variables |= {
                f"model/{variable.path}": average,
                f"optimizer/weight/{variable.path}": variable.value,
            }
        if self.seeds:
            variables["mixup_seed"] = self.seeds.state.value
        return variables | {"steps": self.steps, "examples": self.examples}

    @contextlib.contextmanager
    def averaged(self):
        """Let the model have the averaged weights of --ema_decay, if there are any."""
        weights = [weight.numpy() for weight, _ in zip(self.weights, self.averages, strict=False)]
        for weight, average in zip(self.weights, self.averages, strict=False):
            weight.assign(average)
        try:
            yield self.model
        finally:
            for weight, value in zip(self.weights, weights, strict=False):
                weight.assign(value)

    def step(self, batch: dict[str, tf.Tensor], stop: bool = False, epoch: int = 0) -> dict:
        """Update the variables once on all replicas, unless a gradient is NaN or infinite.

        Unless --skip_bad_batches is set, no later step updates them then either.

        Args:
            batch: this process' batch of `input_pipeline`; may be empty where others' are not.
            epoch: number of complete epochs.
            stop: whether this process was asked to stop.

        Returns:
            Scalars from before the update: "gradient_norm" (over all weights, before clipping),
            "learning_rate", "videos" (of all replicas), "finite" (0 if the update was skipped) and
            "stop" (not 0 if any process was asked to stop). "outputs": the model's outputs on this
            process' first replica, for `report`.
        """
        if getattr(self.model, "samples_on_host", False):
            features, num_frames = self._sample_frames(batch["features"], batch["num_frames"])
            batch = batch | {"features": features, "num_frames": num_frames}
        parts = distribution.split(self.strategy, batch, self.config.batch_size)
        return distribution.first(
            self.strategy, self._step(parts, tf.constant(float(stop)), tf.cast(epoch, tf.int64))
        )

    @tf.function(reduce_retracing=True)
    def _sample_frames(self, features, num_frames):
        with tf.device("CPU:0"):
            return self.model.sample_frames(features, num_frames)

    @tf.function
    def started_together(self) -> tf.Tensor:
        """Whether the replicas of all workers have done as many steps."""

        def total():
            return replicas.total(tf.cast(self.steps, tf.float64))

        totals = self.strategy.experimental_local_results(self.strategy.run(total))
        num_replicas = tf.cast(self.strategy.num_replicas_in_sync, tf.float64)
        return totals[0] == num_replicas * tf.cast(self.steps, tf.float64)

    def _replicas_step(self, parts, stop, epoch):
        return self.strategy.run(self._replica_step, (parts, stop, epoch))

    def _replica_step(self, batch, stop, epoch):
        labels = batch["labels"]
        videos, stop = replicas.total([tf.cast(tf.shape(labels)[0], tf.float32), tf.identity(stop)])
        inputs = input_pipeline.training_inputs(batch)
        mixing = None
        if self.config.mixup:
            mixing = self._mixing(tf.shape(labels)[0])
            inputs["features"] = _mix(mixing[:, None], inputs["features"])
        with tf.GradientTape() as tape:
            outputs = registry.call(self.model, inputs, training=True)
        output_gradients = self._output_gradients(
            outputs, _targets(batch), mixing, 1 / tf.maximum(videos, 1)
        )
        gradients = tape.gradient(outputs, self.weights, output_gradients, "zero")
        if self.strategy.num_replicas_in_sync > 1:
            gradients = replicas.total([tf.cast(gradient, tf.float32) for gradient in gradients])
        # After all matrix products: memory-bound operations slow down a product beside them.
        with tf.control_dependencies(gradients):
            gradients = [
                regularization.add_gradient(gradient, weight, self.config.regularization_penalty)
                for gradient, weight in zip(gradients, self._trainable, strict=True)
            ]
        norms = [optimizers.norm(gradient) for gradient in gradients]
        finite = tf.reduce_all(tf.math.is_finite(norms))
        learning_rate = optimizers.learning_rate(self.config, self.steps, self.examples, epoch)
        if not (finite or self.config.skip_bad_batches):
            replicas.assign(self.failed, tf.constant(True))
        if finite and videos > 0 and not self.failed:
            step = self.steps + 1
            replicas.assign(self.steps, step)
            replicas.assign(self.examples, self.examples + tf.cast(videos, tf.int64))
            clipped = optimizers.clip_each(gradients, norms, self.config.clip_gradient_norm)
            self.optimizer.apply(clipped, learning_rate, step)
            self._update_averages(step)
        return {
            "gradient_norm": tf.norm(norms),
            "learning_rate": learning_rate,
            "videos": videos,
            "finite": finite,
            "stop": stop,
            "outputs": outputs,
        }

    def _update_averages(self, step):
        """Update the moving averages; their decay is lower in the first steps."""
        step = tf.cast(step, tf.float32)
        decay = tf.minimum(self.config.ema_decay, step / (step + 10))
        for average, weight in zip(self.averages, self.weights, strict=False):
            replicas.assign(average, decay * average + (1 - decay) * weight)

    def _mixing(self, num_videos):
        """[num_videos] float32: weight of each video in its mixture, from Beta(mixup, mixup)."""
        shape = [2, num_videos]
        gammas = tf.random.stateless_gamma(shape, self.seeds.next(), self.config.mixup)
        weight = gammas[0] / tf.maximum(gammas[0] + gammas[1], 1e-30)
        return tf.maximum(weight, 1 - weight)

    @tf.function(jit_compile=True, autograph=False)
    def _output_gradients(self, outputs, targets, mixing, weight):
        """Gradients of `weight` times the summed label loss by the model's outputs.

        Head, loss and their gradient are elementwise: XLA compiles them into one pass over memory.
        Matrix products stay outside, as TensorFlow's own library computes them faster on CPUs.
        """
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            predictions = registry.uncalibrated(self.model, outputs)
            label_losses = self._target_losses(targets, predictions)
            if mixing is not None:
                others = [tf.roll(target, 1, axis=0) for target in targets]
                others = self._target_losses(others, predictions)
                label_losses = mixing * label_losses + (1 - mixing) * others
            label_loss = weight * tf.reduce_sum(label_losses)
        return tape.gradient(label_loss, outputs)

    def _target_losses(self, targets, predictions):
        """Label losses, or with soft targets a mixture of those and the soft targets' loss."""
        label_losses = self._label_losses(targets[0], predictions)
        if len(targets) == 1:
            return label_losses
        classes, values = targets[1:]
        soft = losses.multi_hot(classes, predictions.shape[1], values)
        soft_losses = losses.soft_cross_entropy(soft, predictions)
        # 0 for videos that the teacher did not see.
        weight = self.config.teacher_weight * tf.cast(classes[:, 0] >= 0, tf.float32)
        return (1 - weight) * label_losses + weight * soft_losses

    def _label_losses(self, labels, predictions):
        return self.label_loss(losses.multi_hot(labels, predictions.shape[1]), predictions)

    @tf.function(reduce_retracing=True)
    def report(self, outputs, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Compute predictions and losses of a batch after its step, which does not need them.

        Args:
            outputs: of `step`.
            labels: [batch, n] of this process; those of the first replica come first.

        Returns:
            The predictions, [batch, num_classes] of the first replica; their mean label loss; and
            the regularization loss of the weights, times its penalty.
        """
        predictions = registry.uncalibrated(self.model, outputs)
        label_loss = tf.reduce_mean(
            self._label_losses(labels[: tf.shape(predictions)[0]], predictions)
        )
        regularization_loss = regularization.loss(self._trainable)
        return predictions, label_loss, self.config.regularization_penalty * regularization_loss

    @tf.function
    def is_finite(self) -> tf.Tensor:
        """Whether all weights, optimizer slots and averages are finite."""
        finite = [
            tf.reduce_all(tf.math.is_finite(variable))
            for variable in self.variables.values()
            if variable.dtype.is_floating
        ]
        return tf.reduce_all(finite)


def _targets(batch) -> list:
    """Labels, and the classes and values of soft targets, if there are any."""
    names = ("labels", "soft_classes", "soft_values")
    return [batch[name] for name in names if name in batch]


def _mix(weight, features):
    """Mix each video's features with those of the video before it in the batch."""
    return weight * features + (1 - weight) * tf.roll(features, 1, axis=0)
