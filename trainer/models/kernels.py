"""CPU kernels for training: the same results as plain TensorFlow, up to rounding, in less time.

Each is worth more than 10% of some model's step in `benchmarks/step.py`. Layers ask `use` whether
to run a kernel or the plain version. Kernels never run in exported models, which must not need
XLA, nor on GPUs.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from trainer.data.records import QUANTISED_ZERO, QUANTUM

_portable = contextvars.ContextVar("portable", default=False)


def has_gpu() -> bool:
    """Whether a GPU is visible."""
    return bool(tf.config.list_logical_devices("GPU"))


def use(training: bool) -> bool:
    """Whether to run kernels instead of plain TensorFlow: in training without a visible GPU."""
    return bool(training) and not has_gpu()


def use_cudnn() -> bool:
    """Whether recurrent layers run on cuDNN: with a visible GPU, except in exported models."""
    return has_gpu() and not _portable.get()


@contextlib.contextmanager
def portable():
    """Trace functions without cuDNN, so that they run anywhere."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def fused(function):
    """Compile an elementwise `function` with XLA, into one pass over memory.

    Not for matrix products, which TensorFlow's own library computes faster on CPUs.
    """
    return tf.function(function, jit_compile=True, autograph=False)


# Frames.

# XLA's sums over an inner axis are fast if a slice fits the first-level cache, and if the last axis
# is a few vector registers long.
FRAMES_PER_SUM = 20
LANES = 32


def dequantize(features: tf.Tensor) -> tf.Tensor:
    """float32 values of uint8 features, as defined in trainer/data/records.py."""
    return tf.cast(features, tf.float32) * QUANTUM + QUANTISED_ZERO


@fused
def dequantize_and_scale(features: tf.Tensor, scales: tf.Tensor) -> tf.Tensor:
    """`dequantize(features) * scales`."""
    return dequantize(features) * scales


def squared_norms(features: tf.Tensor) -> tf.Tensor:
    """[batch, frames] float32: squared norm of each dequantized frame.

    Args:
        features: [batch, frames, size] uint8.
    """
    lanes = math.gcd(features.shape[2], LANES)
    sums = _sums_of_squares(tf.reshape(features, [-1, features.shape[2] // lanes, lanes]))
    return tf.reshape(tf.reduce_sum(sums, axis=-1), tf.shape(features)[:2])


def weighted_frame_sum(features: tf.Tensor, scales: tf.Tensor) -> tf.Tensor:
    """[batch, size] float32: sum over the frames of `dequantize(features) * scales`.

    Args:
        features: [batch, frames, size] uint8.
        scales: [batch, frames, 1] float32.
    """
    num_frames, size = features.shape[1:]
    frames_per_sum = math.gcd(num_frames or 1, FRAMES_PER_SUM)
    sums = _weighted_sums(
        tf.reshape(features, [-1, frames_per_sum, size]),
        tf.reshape(scales, [-1, frames_per_sum, 1]),
    )
    num_sums = tf.shape(features)[1] // frames_per_sum
    return tf.reduce_sum(tf.reshape(sums, [-1, num_sums, size]), axis=1)


@fused
def _weighted_sums(features, scales):
    return tf.reduce_sum(dequantize(features) * scales, axis=1)


@fused
def _sums_of_squares(features):
    return tf.reduce_sum(tf.square(dequantize(features)), axis=1)


# Matrix products in bfloat16.


@tf.custom_gradient
def bfloat16_matmul(inputs, kernel):
    """inputs [..., n] float32 times kernel [n, m] float32: [..., m] bfloat16.

    The gradient of `kernel` is bfloat16 too: whoever reads it next converts it on the way.
    """
    rows = to_bfloat16(tf.reshape(inputs, [-1, kernel.shape[0]]))
    columns = to_bfloat16(kernel)
    result = tf.matmul(rows, columns)

    def gradient(upstream):
        upstream = tf.reshape(upstream, [-1, kernel.shape[1]])
        inputs_gradient = _to_float32(tf.matmul(upstream, columns, transpose_b=True))
        # A separate transposition is a third faster than transpose_a.
        kernel_gradient = tf.matmul(_transpose(rows), upstream)
        return tf.reshape(inputs_gradient, tf.shape(inputs)), kernel_gradient

    shape = tf.concat([tf.shape(inputs)[:-1], [kernel.shape[1]]], axis=0)
    result = tf.reshape(result, shape)
    return tf.ensure_shape(result, [*inputs.shape[:-1], kernel.shape[1]]), gradient


@tf.custom_gradient
def to_float32(values):
    """float32 values of bfloat16 ones. As tf.cast, but faster."""
    return _to_float32(values), to_bfloat16


@fused
def to_bfloat16(values):
    """Nearest bfloat16 of float32 values, ties to even. As tf.cast, in half the time."""
    bits = tf.bitcast(values, tf.uint32)
    odd = tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 16), 1)
    rounded = tf.bitwise.right_shift(bits + 0x7FFF + odd, 16)
    rounded = tf.where(values != values, tf.constant(0x7FC0, tf.uint32), rounded)  # NaN stays NaN
    return tf.bitcast(tf.cast(rounded, tf.uint16), tf.bfloat16)


@fused
def _to_float32(values):
    bits = tf.cast(tf.bitcast(values, tf.uint16), tf.uint32)
    return tf.bitcast(tf.bitwise.left_shift(bits, 16), tf.float32)


@fused
def _transpose(values):
    return tf.transpose(values)


# Recurrent layers. TensorFlow's gradient of a loop multiplies matrices anew for each frame. Here
# whatever does not depend on the previous frame is one product for all frames.


@dataclass(frozen=True)
class Cell:
    """A recurrent cell.

    Attributes:
        num_states: number of state tensors [batch, units], the output first.
        forward: function (frame projection, recurrent projection, states) -> (states, gates); the
            gates are the four tensors [batch, units] that `backward` needs, concatenated.
        backward: function (gates, previous states, states, gradients of the states)
            -> gradients of the frame projection, of the recurrent projection, and of the previous
            states, without those that flow through the recurrent projection.
    """

    num_states: int
    forward: Callable
    backward: Callable


def _lstm_forward(frame_projection, recurrent_projection, states):
    _, cell = states
    logits = tf.split(frame_projection + recurrent_projection, 4, axis=1)
    input_gate, forget_gate, output_gate = (tf.sigmoid(logits[number]) for number in (0, 1, 3))
    candidate = tf.tanh(logits[2])
    cell = forget_gate * cell + input_gate * candidate
    gates = tf.concat([input_gate, forget_gate, candidate, output_gate], axis=1)
    return [output_gate * tf.tanh(cell), cell], gates


def _lstm_backward(gates, previous_states, states, gradients):
    input_gate, forget_gate, candidate, output_gate = tf.split(gates, 4, axis=1)
    activated_cell = tf.tanh(states[1])
    output_gradient, cell_gradient = gradients
    cell_gradient += output_gradient * output_gate * (1 - activated_cell**2)
    logits_gradient = tf.concat(
        [
            cell_gradient * candidate * input_gate * (1 - input_gate),
            cell_gradient * previous_states[1] * forget_gate * (1 - forget_gate),
            cell_gradient * input_gate * (1 - candidate**2),
            output_gradient * activated_cell * output_gate * (1 - output_gate),
        ],
        axis=1,
    )
    previous = [tf.zeros_like(output_gradient), cell_gradient * forget_gate]
    return logits_gradient, logits_gradient, previous


def _gru_forward(frame_projection, recurrent_projection, states):
    (output,) = states
    frame_update, frame_reset, frame_candidate = tf.split(frame_projection, 3, axis=1)
    update, reset, recurrent_candidate = tf.split(recurrent_projection, 3, axis=1)
    update_gate = tf.sigmoid(frame_update + update)
    reset_gate = tf.sigmoid(frame_reset + reset)
    candidate = tf.tanh(frame_candidate + reset_gate * recurrent_candidate)
    gates = tf.concat([update_gate, reset_gate, candidate, recurrent_candidate], axis=1)
    return [update_gate * output + (1 - update_gate) * candidate], gates


def _gru_backward(gates, previous_states, states, gradients):
    update_gate, reset_gate, candidate, recurrent_candidate = tf.split(gates, 4, axis=1)
    (gradient,) = gradients
    candidate_gradient = gradient * (1 - update_gate) * (1 - candidate**2)
    update_gradient = gradient * (previous_states[0] - candidate) * update_gate * (1 - update_gate)
    reset_gradient = candidate_gradient * recurrent_candidate * reset_gate * (1 - reset_gate)
    gates_gradient = [update_gradient, reset_gradient]
    return (
        tf.concat([*gates_gradient, candidate_gradient], axis=1),
        tf.concat([*gates_gradient, candidate_gradient * reset_gate], axis=1),
        [gradient * update_gate],
    )


LSTM = Cell(2, _lstm_forward, _lstm_backward)
GRU = Cell(1, _gru_forward, _gru_backward)


def recurrence(
    cell: Cell,
    frames: tf.Tensor,
    mask: tf.Tensor,
    kernels: list[tf.Tensor],
    biases: list[tf.Tensor],
) -> tf.Tensor:
    """Outputs of a recurrent layer after each frame.

    Args:
        cell: the cell.
        frames: [frames, batch, width] in the dtype of the kernels.
        mask: [batch, frames] float32, 1 or 0; a masked frame leaves the states unchanged.
        kernels: [width, n] for the frames and [units, n] for the previous output.
        biases: [n] each, added to these products.

    Returns:
        [frames, batch, units] in the dtype of the kernels. Everything except the products is
        float32.
    """

    @tf.custom_gradient
    def run(frames, kernel, recurrent_kernel, bias, recurrent_bias):
        projections = _matmul(frames, kernel) + tf.cast(bias, tf.float32)
        states, gates = _forward(cell, projections, mask, recurrent_kernel, recurrent_bias)
        outputs = tf.cast(states[0], frames.dtype)

        def gradient(upstream):
            frame_gradients, recurrent_gradients = _backward(
                cell, states, gates, mask, recurrent_kernel, tf.cast(upstream, tf.float32)
            )
            return (
                _matmul(frame_gradients, tf.transpose(kernel)),
                _kernel_gradient(frames, frame_gradients),
                _kernel_gradient(outputs[:-1], recurrent_gradients),
                _bias_gradient(frame_gradients, bias),
                _bias_gradient(recurrent_gradients, recurrent_bias),
            )

        return outputs[1:], gradient

    return run(frames, *kernels, *biases)


def _forward(cell, projections, mask, recurrent_kernel, recurrent_bias):
    """States before the first frame and after each, and the gates of each frame.

    [frames + 1, batch, units] each, and [frames, batch, 4 * units].
    """
    num_frames = _length(projections)
    start = [tf.zeros_like(projections[0, :, : recurrent_kernel.shape[0]])] * cell.num_states
    recurrent_bias = tf.cast(recurrent_bias, tf.float32)

    def step(frame, states, state_arrays, gate_array):
        recurrent_projection = _matmul(states[0], recurrent_kernel) + recurrent_bias
        new_states, gates = cell.forward(projections[frame], recurrent_projection, states)
        keep = mask[:, frame, None]
        states = [
            new * keep + old * (1 - keep) for new, old in zip(new_states, states, strict=True)
        ]
        return (
            frame + 1,
            states,
            _write(state_arrays, frame + 1, states),
            gate_array.write(frame, gates),
        )

    state_arrays = _write(_arrays(cell.num_states, num_frames + 1), 0, start)
    begin = (0, start, state_arrays, tf.TensorArray(tf.float32, num_frames))
    _, _, states, gates = tf.while_loop(
        lambda frame, *_: frame < num_frames, step, begin, maximum_iterations=num_frames
    )
    return [array.stack() for array in states], gates.stack()


def _backward(cell, states, gates, mask, recurrent_kernel, upstream):
    """Gradients of the frame and the recurrent projections, [frames, batch, n] each."""
    num_frames = _length(upstream)
    transposed = tf.transpose(recurrent_kernel)
    zeros = [tf.zeros_like(upstream[0])] * cell.num_states

    def step(number, gradients, frame_array, recurrent_array):
        frame = num_frames - 1 - number
        keep = mask[:, frame, None]
        gradients = [gradients[0] + upstream[frame], *gradients[1:]]
        frame_gradient, recurrent_gradient, previous = cell.backward(
            gates[frame],
            [state[frame] for state in states],
            [state[frame + 1] for state in states],
            [gradient * keep for gradient in gradients],
        )
        previous[0] += _matmul(recurrent_gradient, transposed)
        gradients = [new + old * (1 - keep) for new, old in zip(previous, gradients, strict=True)]
        return (
            number + 1,
            gradients,
            frame_array.write(frame, frame_gradient),
            recurrent_array.write(frame, recurrent_gradient),
        )

    arrays = _arrays(2, num_frames)
    _, _, frame_gradients, recurrent_gradients = tf.while_loop(
        lambda number, *_: number < num_frames,
        step,
        (0, zeros, *arrays),
        maximum_iterations=num_frames,
    )
    return frame_gradients.stack(), recurrent_gradients.stack()


def _length(tensor):
    """Size of the first axis; a tensor if it is not known statically."""
    return tensor.shape[0] or tf.shape(tensor)[0]


def _arrays(count, size):
    return [tf.TensorArray(tf.float32, size) for _ in range(count)]


def _write(arrays, index, tensors):
    return [array.write(index, tensor) for array, tensor in zip(arrays, tensors, strict=True)]


def _kernel_gradient(inputs, upstream):
    return tf.tensordot(inputs, tf.cast(upstream, inputs.dtype), [[0, 1], [0, 1]])


def _bias_gradient(upstream, bias):
    return tf.cast(tf.reduce_sum(upstream, axis=[0, 1]), bias.dtype)


def _matmul(inputs, kernel):
    """inputs [..., n] times kernel [n, m] in the dtype of the kernel: [..., m] float32."""
    return tf.cast(tf.tensordot(tf.cast(inputs, kernel.dtype), kernel, 1), tf.float32)
