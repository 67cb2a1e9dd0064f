"""The optimizers: the same updates as tf.compat.v1.train's classes of their names."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from trainer.training import optimizers
from trainer.training.registry import OPTIMIZERS

START = [np.float32([[1.0, -2.0, 0.5], [0.0, 3.0, -0.25]]), np.float32([0.1, -0.2])]
GRADIENTS = [
    [np.float32([[0.5, -1.0, 0.0], [2.0, 0.25, -3.0]]), np.float32([1.0, 0.0])],
    [np.float32([[-0.5, 1.5, 0.1], [0.0, 0.5, -1.0]]), np.float32([0.5, -0.5])],
    [np.float32([[0.01, 0.0, 4.0], [1.0, -0.5, 2.0]]), np.float32([-1.0, 1e-3])],
    [np.float32([[0.3, 0.3, 0.3], [0.3, 0.3, 0.3]]), np.float32([0.0, 0.0])],
]
RATES = [0.1, 0.1, 0.05, 0.02]


def values_of_ours(name, **flags):
    """The variables' values after each update."""
    variables = [tf.Variable(start) for start in START]
    optimizer = optimizers.Optimizer(name, variables, flags)
    values = []
    for step, (gradients, rate) in enumerate(zip(GRADIENTS, RATES, strict=True), start=1):
        rate, step = tf.constant(rate, tf.float32), tf.constant(step, tf.int64)
        optimizer.apply([tf.constant(gradient) for gradient in gradients], rate, step)
        values.append([variable.numpy() for variable in variables])
    return values


def values_of_tensorflow(create):
    """The same with an optimizer of tf.compat.v1.train, made by `create` of the learning rate."""
    values = []
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        rate = tf.compat.v1.placeholder(tf.float32, [])
        variables = [tf.Variable(start) for start in START]
        gradients = [tf.compat.v1.placeholder(tf.float32, start.shape) for start in START]
        update = create(rate).apply_gradients(list(zip(gradients, variables, strict=True)))
        session.run(tf.compat.v1.global_variables_initializer())
        for given, value in zip(GRADIENTS, RATES, strict=True):
            session.run(update, dict(zip(gradients, given, strict=True)) | {rate: value})
            values.append(session.run(variables))
    return values


def assert_equal(values, expected):
    for step, expected_step in zip(values, expected, strict=True):
        for value, expected_value in zip(step, expected_step, strict=True):
            np.testing.assert_allclose(value, expected_value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "AdadeltaOptimizer",
        "AdagradOptimizer",
        "AdamOptimizer",
        "FtrlOptimizer",
        "GradientDescentOptimizer",
        "ProximalAdagradOptimizer",
        "ProximalGradientDescentOptimizer",
        "RMSPropOptimizer",
    ],
)
def test_updates_as_tensorflows_class_of_that_name(name):
    assert_equal(values_of_ours(name), values_of_tensorflow(getattr(tf.compat.v1.train, name)))


@pytest.mark.parametrize("flags", [{}, {"momentum": 0.5}])
def test_momentum_is_a_flag_of_9_tenths(flags):
    momentum = flags.get("momentum", 0.9)
    expected = values_of_tensorflow(
        lambda rate: tf.compat.v1.train.MomentumOptimizer(rate, momentum=momentum)
    )
    assert_equal(values_of_ours("MomentumOptimizer", **flags), expected)


def test_adamw_decays_weights_apart_from_the_gradient():
    # Without a gradient Adam stands still, and the weight shrinks by rate * 0.004 of itself.
    variable = tf.Variable([2.0, -1.0])
    optimizer = optimizers.Optimizer("AdamWOptimizer", [variable])
    for step, expected in enumerate(([1.992, -0.996], [1.984032, -0.992016]), start=1):
        optimizer.apply([tf.zeros([2])], tf.constant(1.0), tf.constant(step))
        assert variable.numpy() == pytest.approx(np.float32(expected), rel=1e-6)


def test_adamw_of_a_first_gradient_by_hand():
    # Adam's first update is the learning rate, whatever the gradient: 2 - .1 * .004 * 2 - .1
    variable = tf.Variable([2.0])
    optimizer = optimizers.Optimizer("AdamWOptimizer", [variable])
    optimizer.apply([tf.constant([7.0])], tf.constant(0.1), tf.constant(1))
    assert variable.numpy() == pytest.approx([1.8992], rel=1e-6)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_goes_downhill_in_a_compiled_function(name):
    variable = tf.Variable([3.0])
    optimizer = optimizers.Optimizer(name, [variable])

    @tf.function
    def step(number):
        optimizer.apply([2 * variable], tf.constant(0.1), number)

    values = [3.0]
    for number in range(1, 6):
        step(tf.constant(number))
        values.append(float(variable[0]))
    assert values == sorted(values, reverse=True)
    assert values[-1] < 3


def rate(step, batch_size=100, base=0.01, decay=0.5, examples=1000.0, epoch=0, **flags):
    config = SimpleNamespace(
        batch_size=batch_size,
        base_learning_rate=base,
        learning_rate_decay=decay,
        learning_rate_decay_examples=examples,
        **{"learning_rate_schedule": "staircase", "warmup_steps": 0, "num_epochs": 4} | flags,
    )
    step, examples, epoch = (
        tf.constant(number, tf.int64) for number in (step, step * batch_size, epoch)
    )
    return float(optimizers.learning_rate(config, step, examples, epoch))


@pytest.mark.parametrize(
    "step, expected",
    [(0, 0.01), (9, 0.01), (10, 0.005), (19, 0.005), (20, 0.0025), (100, 0.01 / 1024)],
)
def test_the_learning_rate_is_a_staircase_of_the_examples_before_the_step(step, expected):
    assert rate(step) == pytest.approx(expected, rel=1e-6)


def test_a_stair_may_lie_within_a_batch():
    # 300 and 600 examples: stairs at 250 and 500; 900 makes three.
    got = [rate(step, batch_size=300, examples=250.0) for step in range(4)]
    assert got == pytest.approx([0.01, 0.005, 0.0025, 0.00125], rel=1e-6)


def test_the_learning_rate_after_more_examples_than_an_int32_counts():
    # 3e9 examples at 4e6 a stair: 750 stairs. The original's product overflows here.
    expected = 0.01 * 0.99**750
    got = rate(3_000_000, batch_size=1000, decay=0.99, examples=4e6)
    assert got == pytest.approx(expected, rel=1e-5)


def test_the_cosine_schedule_falls_by_epochs():
    # cos(pi/8) = 0.92388, cos(3 pi/8) = 0.38268
    expected = [0.01 * (1 + c) / 2 for c in (0.92388, 0.38268, -0.38268, -0.92388)]
    got = [rate(7, learning_rate_schedule="cosine", epoch=epoch) for epoch in range(4)]
    assert got == pytest.approx(expected, rel=1e-4)


def test_the_learning_rate_grows_during_the_warm_up():
    got = [rate(step, warmup_steps=4) for step in (0, 1, 2, 3, 4, 9, 10)]
    expected = [0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01, 0.005]
    assert got == pytest.approx(expected, rel=1e-6)


def test_each_gradient_is_clipped_on_its_own():
    gradients = [tf.constant([3.0, 4.0]), tf.constant([[0.3], [0.4]]), tf.constant([0.0])]
    clipped = optimizers.clip_each(gradients, [tf.norm(g) for g in gradients], 1.0)
    expected = [[0.6, 0.8], [[0.3], [0.4]], [0.0]]  # norms 5, 0.5 and 0
    for got, value in zip(clipped, expected, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-6)


def test_clipping_at_0_is_no_clipping():
    gradients = [tf.constant([3.0, 4.0])]
    clipped = optimizers.clip_each(gradients, [tf.norm(gradients[0])], 0.0)
    assert clipped[0].numpy().tolist() == [3.0, 4.0]
