"""A model, its optimizer, and the step that improves it."""

import keras
import tensorflow as tf

from trainer import losses, models, optimizers
from trainer.config import TrainConfig


class Trainer:
    """What training changes: the model's variables, the optimizer's, the number of steps."""

    def __init__(self, config: TrainConfig):
        # 1 more, because tf.data cannot shuffle by a tensor when TensorFlow's global seed is 0.
        keras.utils.set_random_seed(config.seed + 1)
        self.config = config
        self.loss = losses.find(config.label_loss)
        self.model = models.create(config.model_flags)
        self.weights = [weight.value for weight in self.model.trainable_variables]
        self.optimizer = optimizers.Optimizer(config.optimizer, self.weights)
        self.steps = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.variables = tf.train.Checkpoint(
            model=models.variables(self.model), optimizer=self.optimizer.slots, steps=self.steps
        )

    @tf.function(reduce_retracing=True)
    def step(self, inputs: dict, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        """One update, unless it would make the weights NaN or infinite.

        Args:
            inputs: reading.model_inputs of a batch.
            labels: [batch, n] int32, distinct class ids, then -1.

        Returns:
            Of before the update: "loss" (label loss, mean over the batch), "regularization_loss",
            "gradient_norm" (over all weights, before clipping), "learning_rate", "predictions"
            [batch, num_classes]; and "finite", false when the update was left out.
        """
        with tf.GradientTape() as tape:
            predictions = models.predict(self.model, inputs, training=True)
            label_loss = tf.reduce_mean(self.loss(predictions, labels))
            penalty = self.config.regularization_penalty * tf.add_n(self.model.losses)
            loss = label_loss + penalty
        gradients = tape.gradient(loss, self.weights)
        rate = optimizers.learning_rate(self.config, self.steps)
        norms = [tf.norm(gradient) for gradient in gradients]
        finite = tf.math.is_finite(loss) & tf.reduce_all(tf.math.is_finite(norms))
        if finite:
            self.steps.assign_add(1)
            clipped = optimizers.clip_each(gradients, norms, self.config.clip_gradient_norm)
            self.optimizer.apply(clipped, rate, self.steps)
        return {
            "loss": label_loss,
            "regularization_loss": penalty,
            "gradient_norm": tf.norm(norms),
            "learning_rate": rate,
            "predictions": predictions,
            "finite": finite,
        }
