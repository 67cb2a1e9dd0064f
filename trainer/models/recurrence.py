"""Recurrent layers: those of keras, several times as fast to train on a CPU.

keras leaves a layer's gradient to TensorFlow, which multiplies matrices anew for each frame. Here
all that does not wait for the frame before, or after, is one product for all frames, and what must
wait is multiplied by a matrix laid out for it once. On a GPU keras trains with cuDNN, which does as
much, but would be in an exported model too, which then ran on GPUs only.
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import tensorflow as tf


class Lstm(keras.layers.LSTM):
    """Long short-term memory.

    Source: Hochreiter and Schmidhuber 1997, with a forget gate, whose bias starts as 1.
    """

    def inner_loop(self, sequences, initial_state, mask, training=False):
        if training and _on_gpu():
            return _never_empty(super().inner_loop, sequences, initial_state, mask)
        cell = self.cell
        biases = [cell.bias, tf.zeros_like(cell.bias)]
        return _inner_loop(LSTM, sequences, mask, [cell.kernel, cell.recurrent_kernel], biases)


class Gru(keras.layers.GRU):
    """Gated recurrent unit.

    Source: Cho et al. 2014, arXiv:1406.1078, version 1: the reset gate weighs the product.
    """

    def inner_loop(self, sequences, initial_state, mask, training=False):
        if training and _on_gpu():
            return _never_empty(super().inner_loop, sequences, initial_state, mask)
        cell = self.cell
        biases = tf.unstack(tf.convert_to_tensor(cell.bias))
        return _inner_loop(GRU, sequences, mask, [cell.kernel, cell.recurrent_kernel], biases)


def _on_gpu() -> bool:
    return bool(tf.config.list_logical_devices("GPU"))


def _never_empty(inner_loop, sequences, initial_state, mask):
    """Keras' `inner_loop`, in training, with a sequence of zeros where there is none.

    cuDNN needs one, and an epoch's last batch may leave nothing to one of several GPUs.
    """
    num_sequences = tf.shape(sequences)[0]
    more = tf.cast(num_sequences == 0, tf.int32)

    def padded(tensor, value=0):
        paddings = [[0, more]] + [[0, 0]] * (len(tensor.shape) - 1)
        result = tf.pad(tensor, paddings, constant_values=value)
        return tf.ensure_shape(result, [None, *tensor.shape[1:]])

    last, outputs, states = inner_loop(
        padded(sequences), [padded(state) for state in initial_state], padded(mask, True), True
    )
    return last[:num_sequences], outputs[:num_sequences], [s[:num_sequences] for s in states]


def _inner_loop(cell, sequences, mask, kernels, biases):
    """What keras' own method returns: the last output, all outputs, and the last state."""
    kernels, biases = (
        [tf.convert_to_tensor(part) for part in parts] for parts in (kernels, biases)
    )
    values = tf.transpose(sequences, [1, 0, 2])
    outputs = recurrence(cell, values, tf.cast(mask, tf.float32), kernels, biases)
    outputs = tf.ensure_shape(outputs, [*values.shape[:2], kernels[1].shape[0]])
    return outputs[-1], tf.transpose(outputs, [1, 0, 2]), [outputs[-1]]


@dataclass(frozen=True)
class Cell:
    """What a recurrent layer does with a frame.

    Attributes:
        num_states: tensors [batch, size] that it hands on from frame to frame, the output first.
        forward: (what is made of the frame, what is made of the output before, states)
            -> (states, gates), the gates being the four tensors [batch, size] that `backward`
            needs, side by side.
        backward: (gates, states before, states after, gradients of the latter)
            -> gradients of what is made of the frame, of what is made of the output before, and
            of the states before, as far as these do not come through the output.
    """

    num_states: int
    forward: Callable
    backward: Callable


def _lstm_forward(of_frame, of_output, states):
    _, memory = states
    scores = tf.split(of_frame + of_output, 4, axis=1)
    take, keep, show = (tf.sigmoid(scores[number]) for number in (0, 1, 3))
    new = tf.tanh(scores[2])
    memory = keep * memory + take * new
    return [show * tf.tanh(memory), memory], tf.concat([take, keep, new, show], axis=1)


def _lstm_backward(gates, before, after, gradients):
    take, keep, new, show = tf.split(gates, 4, axis=1)
    shown = tf.tanh(after[1])
    of_output, of_memory = gradients
    of_memory += of_output * show * (1 - shown**2)
    of_scores = tf.concat(
        [
            of_memory * new * take * (1 - take),
            of_memory * before[1] * keep * (1 - keep),
            of_memory * take * (1 - new**2),
            of_output * shown * show * (1 - show),
        ],
        axis=1,
    )
    return of_scores, of_scores, [tf.zeros_like(of_output), of_memory * keep]


def _gru_forward(of_frame, of_output, states):
    (output,) = states
    frame_keep, frame_reset, frame_new = tf.split(of_frame, 3, axis=1)
    output_keep, output_reset, output_new = tf.split(of_output, 3, axis=1)
    keep = tf.sigmoid(frame_keep + output_keep)
    reset = tf.sigmoid(frame_reset + output_reset)
    new = tf.tanh(frame_new + reset * output_new)
    gates = tf.concat([keep, reset, new, output_new], axis=1)
    return [keep * output + (1 - keep) * new], gates


def _gru_backward(gates, before, after, gradients):
    keep, reset, new, output_new = tf.split(gates, 4, axis=1)
    (of_output,) = gradients
    of_new = of_output * (1 - keep) * (1 - new**2)
    of_keep = of_output * (before[0] - new) * keep * (1 - keep)
    of_reset = of_new * output_new * reset * (1 - reset)
    return (
        tf.concat([of_keep, of_reset, of_new], axis=1),
        tf.concat([of_keep, of_reset, of_new * reset], axis=1),
        [of_output * keep],
    )


LSTM = Cell(2, _lstm_forward, _lstm_backward)
GRU = Cell(1, _gru_forward, _gru_backward)


def recurrence(
    cell: Cell,
    values: tf.Tensor,
    real: tf.Tensor,
    kernels: list[tf.Tensor],
    biases: list[tf.Tensor],
) -> tf.Tensor:
    """The outputs of a recurrent layer after each frame.

    Args:
        cell: what it does with a frame.
        values: [frames, batch, width] of the kernels' type.
        real: [batch, frames] float32, 1 or 0: a frame that is not leaves the states as they are.
        kernels: [width, n], which a frame is multiplied by, and [size, n], for the output before.
        biases: [n] each, added to these products.

    Returns:
        [frames, batch, size] of the kernels' type. Multiplied in that type, all else in float32.
    """

    @tf.custom_gradient
    def run(values, kernel, recurrent_kernel, bias, recurrent_bias):
        of_frames = _product(values, kernel) + tf.cast(bias, tf.float32)
        states, gates = _forward(cell, of_frames, real, recurrent_kernel, recurrent_bias)
        outputs = tf.cast(states[0], values.dtype)

        def gradient(upstream):
            upstream = tf.cast(upstream, tf.float32)
            of_frames, of_outputs = _backward(cell, states, gates, real, recurrent_kernel, upstream)
            return (
                _product(of_frames, tf.transpose(kernel)),
                _kernel_gradient(values, of_frames),
                _kernel_gradient(outputs[:-1], of_outputs),
                _bias_gradient(of_frames, bias),
                _bias_gradient(of_outputs, recurrent_bias),
            )

        return outputs[1:], gradient

    return run(values, *kernels, *biases)


def _forward(cell, of_frames, real, recurrent_kernel, recurrent_bias):
    """The states, before the first frame and after each, and the gates of each frame.

    [frames + 1, batch, size] each, and [frames, batch, 4 size].
    """
    num_frames = _length(of_frames)
    start = [tf.zeros_like(of_frames[0, :, : recurrent_kernel.shape[0]])] * cell.num_states
    recurrent_bias = tf.cast(recurrent_bias, tf.float32)

    def step(number, states, states_written, gates_written):
        of_output = _product(states[0], recurrent_kernel) + recurrent_bias
        new_states, gates = cell.forward(of_frames[number], of_output, states)
        is_real = real[:, number, None]
        states = [
            new * is_real + old * (1 - is_real) for new, old in zip(new_states, states, strict=True)
        ]
        return (
            number + 1,
            states,
            _write(states_written, number + 1, states),
            gates_written.write(number, gates),
        )

    written = _write(_arrays(cell.num_states, num_frames + 1), 0, start)
    begin = (0, start, written, tf.TensorArray(tf.float32, num_frames))
    _, _, states, gates = tf.while_loop(
        lambda number, *_: number < num_frames, step, begin, maximum_iterations=num_frames
    )
    return [array.stack() for array in states], gates.stack()


def _backward(cell, states, gates, real, recurrent_kernel, upstream):
    """Gradients of what was made of each frame, and of the output before: [frames, batch, n]."""
    num_frames = _length(upstream)
    transposed = tf.transpose(recurrent_kernel)
    nothing = [tf.zeros_like(upstream[0])] * cell.num_states

    def step(number, gradients, of_frames, of_outputs):
        at = num_frames - 1 - number
        is_real = real[:, at, None]
        gradients = [gradients[0] + upstream[at], *gradients[1:]]
        of_frame, of_output, direct = cell.backward(
            gates[at],
            [state[at] for state in states],
            [state[at + 1] for state in states],
            [gradient * is_real for gradient in gradients],
        )
        direct[0] += _product(of_output, transposed)
        gradients = [new + old * (1 - is_real) for new, old in zip(direct, gradients, strict=True)]
        return (
            number + 1,
            gradients,
            of_frames.write(at, of_frame),
            of_outputs.write(at, of_output),
        )

    arrays = _arrays(2, num_frames)
    _, _, of_frames, of_outputs = tf.while_loop(
        lambda number, *_: number < num_frames,
        step,
        (0, nothing, *arrays),
        maximum_iterations=num_frames,
    )
    return of_frames.stack(), of_outputs.stack()


def _length(tensor):
    """The size of the first axis; a tensor only where it is not known yet."""
    return tensor.shape[0] or tf.shape(tensor)[0]


def _arrays(count, size):
    return [tf.TensorArray(tf.float32, size) for _ in range(count)]


def _write(arrays, number, tensors):
    return [array.write(number, tensor) for array, tensor in zip(arrays, tensors, strict=True)]


def _kernel_gradient(values, upstream):
    return tf.tensordot(values, tf.cast(upstream, values.dtype), [[0, 1], [0, 1]])


def _bias_gradient(upstream, bias):
    return tf.cast(tf.reduce_sum(upstream, axis=[0, 1]), bias.dtype)


def _product(values, kernel):
    """values [..., n] times kernel [n, m], multiplied in the kernel's type: [..., m] float32."""
    return tf.cast(tf.tensordot(tf.cast(values, kernel.dtype), kernel, 1), tf.float32)
