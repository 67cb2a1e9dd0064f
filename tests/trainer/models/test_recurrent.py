"""Recurrent layers: the mathematics of keras' own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.models import kernels, recurrent

LAYERS = [(recurrent.Lstm, keras.layers.LSTM), (recurrent.Gru, keras.layers.GRU)]
LENGTHS = [7, 2, 1]
FRAMES = np.random.default_rng(0).normal(size=[len(LENGTHS), 7, 4]).astype(np.float32)


def outputs_and_gradients(layer, frames, lengths, weights):
    """Of a layer with these weights, of inputs and weights."""
    mask = tf.sequence_mask(lengths, frames.shape[1])
    layer.build(frames.shape)
    layer.set_weights(weights)

    @tf.function
    def run(frames):
        with tf.GradientTape() as tape:
            tape.watch(frames)
            outputs = tf.cast(layer(frames, mask=mask), tf.float32)
            total = tf.reduce_sum(outputs * tf.cos(tf.range(5.0)))
        return outputs, tape.gradient(total, [frames, *(w.value for w in layer.weights)])

    outputs, gradients = run(tf.constant(frames))
    return [outputs.numpy(), *(gradient.numpy() for gradient in gradients)]


def weights_of(layer_class, width=4, size=5):
    layer = layer_class(size)
    layer.build([None, None, width])
    random = np.random.default_rng(1)
    return [random.normal(size=weight.shape).astype(np.float32) for weight in layer.weights]


@pytest.mark.parametrize("ours, theirs", LAYERS)
@pytest.mark.parametrize("all_outputs", [False, True])
def test_outputs_and_gradients_are_those_of_keras(ours, theirs, all_outputs):
    weights = weights_of(theirs)
    layers = ours(5, return_sequences=all_outputs), theirs(5, return_sequences=all_outputs)
    ours, theirs = (outputs_and_gradients(layer, FRAMES, LENGTHS, weights) for layer in layers)
    for got, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", [recurrent.Lstm, recurrent.Gru])
def test_what_follows_a_videos_last_frame_changes_nothing(layer):
    weights = weights_of(layer)
    other = FRAMES.copy()
    for video, length in enumerate(LENGTHS):
        other[video, length:] = 100.0
    results = [
        outputs_and_gradients(layer(5), frames, LENGTHS, weights) for frames in (FRAMES, other)
    ]
    for got, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("layer", [recurrent.Lstm, recurrent.Gru])
def test_mixed_precision_is_close_to_float32(layer):
    weights = [weight / 10 for weight in weights_of(layer)]
    exact, close = (
        outputs_and_gradients(layer(5, dtype=dtype), FRAMES, LENGTHS, weights)
        for dtype in ("float32", "mixed_bfloat16")
    )
    for got, expected in zip(close, exact, strict=True):
        np.testing.assert_allclose(got, expected, atol=0.03 * np.abs(expected).max())


@pytest.mark.parametrize("ours, theirs", LAYERS)
@pytest.mark.parametrize("num_videos", [0, 3])
@pytest.mark.parametrize("training", [True, False])
def test_keras_layer_on_a_gpu_never_gets_an_empty_batch(
    ours, theirs, num_videos, training, monkeypatch
):
    seen = []
    inner_loop = theirs.inner_loop

    def seeing(self, sequences, *others, **named):
        seen.append(len(sequences))
        return inner_loop(self, sequences, *others, **named)

    monkeypatch.setattr(theirs, "inner_loop", seeing)
    monkeypatch.setattr(kernels, "has_gpu", lambda: True)
    weights = weights_of(theirs)
    frames, mask = FRAMES[:num_videos], tf.sequence_mask(LENGTHS[:num_videos], 7)
    layers = ours(5, return_sequences=True), theirs(5, return_sequences=True)
    for layer in layers:
        layer.build(frames.shape)
        layer.set_weights(weights)
    got = layers[0](frames, mask=mask, training=training)
    assert seen == [max(num_videos, 1)]
    assert got.shape == (num_videos, 7, 5)
    if num_videos:
        np.testing.assert_allclose(got, layers[1](frames, mask=mask), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", [recurrent.Lstm, recurrent.Gru])
def test_biases_get_float32_gradients_with_mixed_precision(layer):
    layer = layer(5, dtype="mixed_bfloat16")
    frames = tf.random.stateless_uniform([4, 7, 3], [1, 2])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(frames, mask=tf.fill([4, 7], True), training=True))
    gradient = tape.gradient(total, layer.cell.bias.value)
    rounded = tf.cast(tf.cast(gradient, tf.bfloat16), tf.float32)
    assert gradient.dtype == tf.float32
    assert not np.array_equal(gradient, rounded)
