"""A model, its optimizer, and the step that improves it."""

import keras
import tensorflow as tf

from trainer.config import TrainConfig
from trainer.data import input_pipeline
from trainer.models import registry
from trainer.training import distribution, losses, optimizers
from trainer.training.regularization import Regularization


class Trainer:
    """What training changes: the model's variables, the optimizer's, the number of steps."""

    def __init__(self, config: TrainConfig, strategy: tf.distribute.Strategy):
        # 1 more, because tf.data cannot shuffle by a tensor when TensorFlow's global seed is 0.
        keras.utils.set_random_seed(config.seed + 1)
        self.config = config
        self.strategy = strategy
        self.loss = losses.LOSSES[config.label_loss]
        with strategy.scope():
            self.model = registry.create(config.model_flags, config.mixed_precision)
            self.weights = [weight.value for weight in self.model.trainable_variables]
            decays = [
                config.regularization_penalty * registry.l2(weight)
                for weight in self.model.trainable_variables
            ]
            self.regularization = Regularization(self.weights, decays)
            self.optimizer = optimizers.Optimizer(config.optimizer, self.weights)
            self.steps = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._traces = {}
        self.variables = self._variables()

    def _variables(self) -> dict[str, tf.Variable]:
        variables = registry.variables(self.model)
        for weight, slots in zip(self.model.trainable_variables, self.optimizer.slots, strict=True):
            variables |= {f"optimizer/{slot}/{weight.path}": v for slot, v in slots.items()}
        return variables | {"steps": self.steps}

    def step(self, batch: dict[str, tf.Tensor], stop: bool = False) -> dict:
        """One update on all replicas, unless it would make the weights NaN or infinite.

        Args:
            batch: this process' batch, of `reading`; may be empty where others' are not.
            stop: whether this process was asked to end.

        Returns:
            Scalars of before the update: "gradient_norm" (over all weights, before clipping),
            "learning_rate", "videos" (of all replicas), "finite" (0 when the update was left out)
            and "stop" (not 0 when a process was asked to end).
            "scores": of the batch of this process' first replica, for `report`.
        """
        parts = distribution.split(self.strategy, batch, self.config.batch_size)
        arguments = parts, tf.constant(float(stop))
        return distribution.first(self.strategy, self._traced(batch, arguments)(*arguments))

    def _traced(self, batch, arguments):
        """What tf.function makes of `_step` for a batch of these shapes.

        Looked up here, because tf.function takes as long as a fiftieth of a small model's step.
        """
        shapes = tuple(tuple(values.shape) for values in tf.nest.flatten(batch))
        if shapes not in self._traces:
            self._traces[shapes] = self._step.get_concrete_function(*arguments)
        return self._traces[shapes]

    @tf.function
    def started_together(self) -> tf.Tensor:
        """Whether the replicas of all workers have done as many steps."""

        def total():
            return distribution.total(tf.cast(self.steps, tf.float64))

        totals = self.strategy.experimental_local_results(self.strategy.run(total))
        replicas_in_sync = tf.cast(self.strategy.num_replicas_in_sync, tf.float64)
        return totals[0] == replicas_in_sync * tf.cast(self.steps, tf.float64)

    @tf.function
    def _step(self, parts, stop):
        return self.strategy.run(self._replica_step, (parts, stop))

    def _replica_step(self, batch, stop):
        labels = batch["labels"]
        videos, stop = distribution.total(
            [tf.cast(tf.shape(labels)[0], tf.float32), tf.identity(stop)]
        )
        with tf.GradientTape() as tape:
            scores = self.model.scores(**input_pipeline.training_inputs(batch))
        weight = 1 / tf.maximum(videos, 1)
        of_scores = self.model.classifier.learn(scores, labels, self.loss, weight)
        gradients = tape.gradient(scores, self.weights, of_scores)
        if self.strategy.num_replicas_in_sync > 1:
            gradients = distribution.total(
                [tf.cast(gradient, tf.float32) for gradient in gradients]
            )
        gradients = self.regularization.added_to(gradients)
        norms = [optimizers.norm(gradient) for gradient in gradients]
        finite = tf.reduce_all(tf.math.is_finite(norms))
        rate = optimizers.learning_rate(self.config, self.steps, self._videos_a_step)
        if finite and videos > 0:
            step = self.steps + 1
            distribution.assign(self.steps, step)
            clipped = optimizers.clip_each(gradients, norms, self.config.clip_gradient_norm)
            self.optimizer.apply(clipped, rate, step)
        return {
            "gradient_norm": tf.norm(norms),
            "learning_rate": rate,
            "videos": videos,
            "finite": finite,
            "stop": stop,
            "scores": scores,
        }

    @tf.function(reduce_retracing=True)
    def report(self, scores: list[tf.Tensor], labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """What a step says of its batch, apart from the step, which has no need of it.

        Args:
            scores: of `step`.
            labels: [batch, n] of this process; those of the first replica come first.

        Returns:
            The predictions, [batch, num_classes] of the first replica; their mean label loss; and
            the regularization loss of the weights.
        """
        predictions = self.model.classifier.predictions(scores)
        present = losses.dense(labels[: tf.shape(predictions)[0]], predictions.shape[1])
        label_loss = tf.reduce_mean(self.loss.values(predictions, present))
        return predictions, label_loss, self.regularization.loss()

    @property
    def _videos_a_step(self) -> int:
        return self.config.batch_size * self.strategy.num_replicas_in_sync
