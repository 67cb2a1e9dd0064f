"""The video-level models: by hand, and against their formulas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import models
from trainer.config import TrainConfig
from trainer.video_level_models import mixture


def flags(**changes) -> dict:
    """The model flags of a config with a feature of 2 numbers and 3 classes."""
    small = {"feature_names": "rgb", "feature_sizes": "2", "num_classes": 3}
    return TrainConfig(**small | changes).model_flags


def set_weights(model, **values):
    """Gives each trainable variable its value, by the end of its path; "_" stands for "/"."""
    left = dict(values)
    for variable in model.trainable_variables:
        name = next(name for name in left if variable.path.endswith(name.replace("_", "/")))
        variable.assign(left.pop(name))
    assert not left


def predict(model, features) -> np.ndarray:
    return models.predict(model, {"features": tf.constant(features, tf.float32)}).numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_logistic_model_by_hand():
    # [3, 4] has length 5: the unit sees [0.6, 0.8].
    model = models.create(flags())
    set_weights(
        model, classes_kernel=[[0.0, 1.0, -5.0], [0.0, 1.0, 5.0]], classes_bias=[0.0, 0.6, -1.0]
    )
    expected = sigmoid(np.array([0.0, 0.6 + 0.8 + 0.6, -3 + 4 - 1]))
    assert predict(model, [[3.0, 4.0]])[0] == pytest.approx(expected, rel=1e-6)


def test_features_are_normalised_jointly():
    # As one vector of length 5, not as two of length 1 each.
    model = models.create(flags(feature_names="rgb,audio", feature_sizes="1,1"))
    set_weights(model, classes_kernel=np.eye(2, 3), classes_bias=np.zeros(3))
    expected = sigmoid(np.array([0.6, 0.8, 0.0]))
    assert predict(model, [[3.0, 4.0]])[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["LogisticModel", "MoeModel"])
def test_the_length_of_the_features_does_not_matter(name):
    model = models.create(flags(model=name))
    got = predict(model, [[3.0, -4.0], [0.003, -0.004], [3e4, -4e4]])
    assert got[1] == pytest.approx(got[0], rel=1e-5)
    assert got[2] == pytest.approx(got[0], rel=1e-5)


@pytest.mark.parametrize(
    "name, expected", [("LogisticModel", [0.5, 0.5, 0.5]), ("MoeModel", [1 / 3, 1 / 3, 1 / 3])]
)
def test_features_of_nothing_but_zeros_leave_the_biases_to_decide(name, expected):
    # Biases start at 0. Two experts of three say 1/2 each, the third says no.
    assert predict(models.create(flags(model=name)), [[0.0, 0.0]])[0] == pytest.approx(expected)


def test_moe_model_of_one_class_and_one_expert_by_hand():
    # The gates say log 3 for the expert, 0 for no: 3/4 and 1/4. The expert says 3/4.
    model = models.create(flags(model="MoeModel", num_classes=1, moe_num_mixtures=1))
    set_weights(
        model,
        gates_kernel=[[np.log(3) / 0.6, 0.0], [0.0, 0.0]],
        experts_kernel=np.zeros([2, 1]),
        experts_bias=[np.log(3)],
    )
    assert predict(model, [[3.0, 4.0]]) == pytest.approx(np.array([[0.75 * 0.75]]), rel=1e-6)


def test_moe_model_equals_its_formula():
    num_classes, num_mixtures = 3, 2
    rng = np.random.default_rng(0)
    gates = rng.normal(size=[2, num_mixtures + 1, num_classes])
    experts = rng.normal(size=[2, num_mixtures, num_classes])
    biases = rng.normal(size=[num_mixtures, num_classes])
    features = rng.normal(size=[4, 2])

    model = models.create(flags(model="MoeModel", moe_num_mixtures=num_mixtures))
    set_weights(
        model,
        gates_kernel=gates.reshape(2, -1),
        experts_kernel=experts.reshape(2, -1),
        experts_bias=biases.ravel(),
    )

    expected = np.zeros([4, num_classes])
    for video, x in enumerate(features):
        x = x / np.sqrt((x**2).sum())
        for c in range(num_classes):
            weights = np.exp(x @ gates[:, :, c])
            for m in range(num_mixtures):
                expert = sigmoid(x @ experts[:, m, c] + biases[m, c])
                expected[video, c] += weights[m] / weights.sum() * expert
    np.testing.assert_allclose(predict(model, features), expected, rtol=1e-5)


def test_moe_model_has_the_originals_weights():
    # Gates without biases, with one more expert a class; two experts a class with biases.
    model = models.create(flags(model="MoeModel", moe_num_mixtures=2))
    shapes = sorted(tuple(variable.shape) for variable in model.trainable_variables)
    assert shapes == [(2, 6), (2, 9), (6,)]


def test_moe_model_at_the_originals_size():
    model = models.create(flags(model="MoeModel", feature_sizes="1152", num_classes=3862))
    assert model.count_params() == 1152 * 3862 * 3 + 1152 * 3862 * 2 + 3862 * 2


@pytest.mark.parametrize(
    "name, kernels", [("LogisticModel", [(2, 3)]), ("MoeModel", [(2, 9), (2, 6)])]
)
def test_the_penalty_is_1e_8_times_half_the_sum_of_squares_of_kernels_alone(name, kernels):
    model = models.create(flags(model=name))
    for variable in model.trainable_variables:
        variable.assign(tf.fill(variable.shape, 100.0))
    predict(model, [[3.0, 4.0]])
    num_weights = sum(rows * columns for rows, columns in kernels)
    expected = 1e-8 * num_weights * 100.0**2 / 2
    got = sum(models.l2(w) * float(tf.nn.l2_loss(w.value)) for w in model.trainable_variables)
    assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["LogisticModel", "MoeModel"])
def test_weights_start_as_the_originals(name):
    # Glorot's uniform kernels: within sqrt(6 / (inputs + outputs)). Biases of 0.
    keras.utils.set_random_seed(3)
    model = models.create(flags(model=name, feature_sizes="50", num_classes=40))
    for variable in model.trainable_variables:
        values = variable.numpy()
        if values.ndim == 1:
            assert not values.any()
        else:
            bound = np.sqrt(6 / sum(values.shape))
            assert np.abs(values).max() == pytest.approx(bound, rel=0.02)
            assert np.abs(values).max() <= bound
            assert values.mean() == pytest.approx(0, abs=0.05 * bound)


def test_the_seed_decides_the_first_weights():
    def first_weights(seed):
        keras.utils.set_random_seed(seed)
        return models.create(flags(model="MoeModel")).get_weights()

    once, again, other = first_weights(1), first_weights(1), first_weights(2)
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    assert not np.array_equal(once[0], other[0])


@pytest.mark.parametrize("name", ["LogisticModel", "MoeModel"])
def test_predictions_are_probabilities_of_any_batch(name):
    model = models.create(flags(model=name))
    features = np.random.default_rng(0).normal(size=[7, 2])
    together = predict(model, features)
    assert together.shape == (7, 3)
    assert together.dtype == np.float32
    assert ((together > 0) & (together < 1)).all()
    assert predict(model, features[:1]) == pytest.approx(together[:1], rel=1e-6)
    assert predict(model, features[:0]).shape == (0, 3)


def moe_of(gates, says):
    """The mixture's plain formula: gates [batch, M + 1, C], says [batch, M, C]."""
    return tf.reduce_sum(tf.nn.softmax(gates, axis=1)[:, :-1] * says, axis=1)


@pytest.mark.parametrize("num_mixtures", [1, 2, 5])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_mixture_and_its_gradient_in_training_are_the_plain_formulas(num_mixtures, scale):
    rng = np.random.default_rng(num_mixtures)
    gates = tf.constant(scale * rng.normal(size=[4, num_mixtures + 1, 3]), tf.float32)
    says = tf.constant(rng.uniform(size=[4, num_mixtures, 3]), tf.float32)
    upstream = tf.constant(rng.normal(size=[4, 3]), tf.float32)

    def result_and_gradients(formula):
        with tf.GradientTape() as tape:
            tape.watch([gates, says])
            result = formula(gates, says)
        return result, *tape.gradient(result, [gates, says], upstream)

    got, expected = result_and_gradients(mixture), result_and_gradients(moe_of)
    for value, expected_value in zip(got, expected, strict=True):
        np.testing.assert_allclose(value, expected_value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gate", [-1000.0, -100.0, 100.0, 1000.0])
def test_the_mixture_stays_finite_whatever_the_gates_say(gate):
    gates = tf.constant([[[gate], [0.0], [0.0]]])
    says = tf.constant([[[0.75], [0.25]]])
    with tf.GradientTape() as tape:
        tape.watch([gates, says])
        result = mixture(gates, says)
    assert result.numpy() == pytest.approx(moe_of(gates, says).numpy(), rel=1e-5)
    assert all(np.isfinite(gradient).all() for gradient in tape.gradient(result, [gates, says]))


@pytest.mark.parametrize("name", ["LogisticModel", "MoeModel"])
def test_a_model_says_the_same_in_training(name):
    model = models.create(flags(model=name))
    inputs = {"features": tf.random.stateless_normal([5, 2], [0, 0])}
    in_training = models.predict(model, inputs, training=True)
    np.testing.assert_allclose(in_training, models.predict(model, inputs), rtol=1e-5)


def test_a_class_trusts_its_experts_to_1_in_all():
    model = models.create(flags(model="MoeModel"))
    gates, _ = model.classifier.opinions(tf.constant([[0.6, 0.8], [0.0, 0.0]]))
    trust = tf.nn.softmax(gates, axis=1).numpy()
    assert trust.shape == (2, 3, 3)
    assert trust.sum(axis=1) == pytest.approx(np.ones([2, 3]))
    assert trust[1] == pytest.approx(np.full([3, 3], 1 / 3))
