"""A model, its optimizer, and the step that improves it."""

import keras
import tensorflow as tf

from trainer import losses, models, optimizers, reading, replicas
from trainer.config import TrainConfig


class Trainer:
    """What training changes: the model's variables, the optimizer's, the number of steps."""

    def __init__(self, config: TrainConfig, strategy: tf.distribute.Strategy):
        # 1 more, because tf.data cannot shuffle by a tensor when TensorFlow's global seed is 0.
        keras.utils.set_random_seed(config.seed + 1)
        self.config = config
        self.strategy = strategy
        self.loss = losses.find(config.label_loss)
        with strategy.scope():
            self.model = models.create(config.model_flags)
            self.weights = [weight.value for weight in self.model.trainable_variables]
            self.optimizer = optimizers.Optimizer(config.optimizer, self.weights)
            self.steps = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.variables = tf.train.Checkpoint(
            model=models.variables(self.model), optimizer=self.optimizer.slots, steps=self.steps
        )

    def step(self, batch: dict[str, tf.Tensor], stop: bool = False) -> dict:
        """One update on all replicas, unless it would make the weights NaN or infinite.

        Args:
            batch: this process' batch, of `reading`; may be empty where others' are not.
            stop: whether this process was asked to end.

        Returns:
            Scalars of before the update: "loss" (label loss, mean over the batches of all
            replicas), "regularization_loss", "gradient_norm" (over all weights, before clipping),
            "learning_rate", "videos" (of all replicas), "finite" (0 when the update was left out)
            and "stop" (not 0 when a process was asked to end).
            "predictions": [batch, num_classes] of this process' first replica.
        """
        parts = replicas.split(self.strategy, batch, self.config.batch_size)
        results = self._step(parts, tf.constant(float(stop)))
        return {
            name: self.strategy.experimental_local_results(result)[0]
            for name, result in results.items()
        }

    @tf.function(reduce_retracing=True)
    def _step(self, parts, stop):
        return self.strategy.run(self._replica_step, (parts, stop))

    def _replica_step(self, batch, stop):
        labels = batch["labels"]
        videos = replicas.total(tf.cast(tf.shape(labels)[0], tf.float32))
        with tf.GradientTape() as tape:
            inputs = reading.model_inputs(batch)
            predictions = models.predict(self.model, inputs, training=True)
            label_loss = tf.reduce_sum(self.loss(predictions, labels)) / tf.maximum(videos, 1)
            penalty = self.config.regularization_penalty * tf.add_n(self.model.losses)
            # Every replica's gradients are summed, and the penalty must count once.
            loss = label_loss + penalty / self.strategy.num_replicas_in_sync
        gradients = replicas.total(tape.gradient(loss, self.weights))
        label_loss, stop = replicas.total([label_loss, tf.identity(stop)])
        rate = optimizers.learning_rate(self.config, self.steps, self._videos_a_step)
        norms = [tf.norm(gradient) for gradient in gradients]
        finite = tf.math.is_finite(label_loss) & tf.reduce_all(tf.math.is_finite(norms))
        if finite and videos > 0:
            step = self.steps + 1
            replicas.assign(self.steps, step)
            clipped = optimizers.clip_each(gradients, norms, self.config.clip_gradient_norm)
            self.optimizer.apply(clipped, rate, step)
        return {
            "loss": label_loss,
            "regularization_loss": penalty,
            "gradient_norm": tf.norm(norms),
            "learning_rate": rate,
            "videos": videos,
            "finite": finite,
            "stop": stop,
            "predictions": predictions,
        }

    @property
    def _videos_a_step(self) -> int:
        return self.config.batch_size * self.strategy.num_replicas_in_sync
