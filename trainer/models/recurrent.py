"""LstmModel and GruModel: stacks of recurrent layers over the frames."""

import keras
import tensorflow as tf

from trainer.models import frames, kernels, registry
from trainer.models.layers import VideoModel


class Float32Layer:
    """Mixin for recurrent layers with float32 weights, inputs and outputs.

    With mixed precision, training on CPUs multiplies in bfloat16. On GPUs cuDNN multiplies in
    float32, or TF32 where there is.
    """

    def __init__(self, *args, dtype=None, **kwargs):
        policy = keras.dtype_policies.get(dtype) if dtype else keras.config.dtype_policy()
        super().__init__(*args, dtype="float32", **kwargs)
        self.product_dtype = policy.compute_dtype


class Lstm(Float32Layer, keras.layers.LSTM):
    """Keras' LSTM, several times faster to train on CPUs.

    Source: Hochreiter and Schmidhuber 1997, with a forget gate, whose bias starts as 1.
    """

    def inner_loop(self, sequences, initial_state, mask, training=False):
        if kernels.use_cudnn():
            return _pad_empty_batch(super().inner_loop, sequences, initial_state, mask, training)
        cell = self.cell
        biases = [cell.bias, tf.zeros_like(cell.bias)]
        dtype = self.product_dtype if training else "float32"
        return _inner_loop(
            kernels.LSTM, sequences, mask, [cell.kernel, cell.recurrent_kernel], biases, dtype
        )


class Gru(Float32Layer, keras.layers.GRU):
    """Keras' GRU, several times faster to train on CPUs.

    Source: Cho et al. 2014, arXiv:1406.1078, version 1: the reset gate is applied after the
        recurrent product.
    """

    def inner_loop(self, sequences, initial_state, mask, training=False):
        if kernels.use_cudnn():
            return _pad_empty_batch(super().inner_loop, sequences, initial_state, mask, training)
        cell = self.cell
        biases = tf.unstack(tf.convert_to_tensor(cell.bias))
        dtype = self.product_dtype if training else "float32"
        return _inner_loop(
            kernels.GRU, sequences, mask, [cell.kernel, cell.recurrent_kernel], biases, dtype
        )


def _pad_empty_batch(inner_loop, sequences, initial_state, mask, training):
    """Keras' `inner_loop`, with a sequence of zeros in place of an empty batch.

    cuDNN rejects empty batches, and the last batch of an epoch may leave a GPU without videos.
    """
    num_sequences = tf.shape(sequences)[0]
    num_added = tf.cast(num_sequences == 0, tf.int32)

    def pad(tensor, value=0):
        paddings = [[0, num_added]] + [[0, 0]] * (len(tensor.shape) - 1)
        result = tf.pad(tensor, paddings, constant_values=value)
        return tf.ensure_shape(result, [None, *tensor.shape[1:]])

    last, outputs, states = inner_loop(
        pad(sequences), [pad(state) for state in initial_state], pad(mask, True), training
    )
    return last[:num_sequences], outputs[:num_sequences], [s[:num_sequences] for s in states]


def _inner_loop(cell, sequences, mask, cell_kernels, biases, dtype):
    """Last output, all outputs and last state, as Keras' own method returns them."""
    biases = [tf.convert_to_tensor(bias) for bias in biases]
    cell_kernels = [tf.cast(kernel, dtype) for kernel in cell_kernels]
    values = tf.transpose(tf.cast(sequences, dtype), [1, 0, 2])
    outputs = kernels.recurrence(cell, values, tf.cast(mask, tf.float32), cell_kernels, biases)
    outputs = tf.cast(outputs, tf.float32)
    outputs = tf.ensure_shape(outputs, [*values.shape[:2], cell_kernels[1].shape[0]])
    return outputs[-1], tf.transpose(outputs, [1, 0, 2]), [outputs[-1]]


class RecurrentModel(VideoModel):
    """A stack of recurrent layers and a classifier of the output at a video's last frame.

    Args:
        classifier: the classifier.
        layers: recurrent layers; all except the last return sequences.
    """

    def __init__(self, classifier, layers: list[Lstm] | list[Gru], name: str):
        super().__init__(classifier, name)
        self.recurrent = layers

    def vector(self, features, num_frames, training):
        values = frames.unit_frames(features, num_frames, training)
        mask = tf.cast(frames.mask(features, num_frames), tf.bool)
        for layer in self.recurrent:
            values = layer(values, mask=mask, training=training)
        return tf.cast(values, tf.float32)


def build_lstm(flags: dict) -> RecurrentModel:
    # Glorot-uniform recurrent kernels and zero biases, as in the original.
    num_layers = flags["lstm_layers"]
    layers = [
        Lstm(
            flags["lstm_cells"],
            recurrent_initializer="glorot_uniform",
            return_sequences=number < num_layers,
            name=f"lstm_{number}",
        )
        for number in range(1, num_layers + 1)
    ]
    return RecurrentModel(registry.build_classifier(flags), layers, "lstm_model")


def build_gru(flags: dict) -> RecurrentModel:
    num_layers = flags["gru_layers"]
    layers = [
        Gru(flags["gru_cells"], return_sequences=number < num_layers, name=f"gru_{number}")
        for number in range(1, num_layers + 1)
    ]
    return RecurrentModel(registry.build_classifier(flags), layers, "gru_model")
