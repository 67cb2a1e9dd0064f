"""The video-level models: by hand, and against their formulas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.config import TrainConfig
from trainer.models import registry
from trainer.models.logistic import Logistic
from trainer.models.moe import Moe
from trainer.training import losses, regularization
from trainer.training.registry import LOSSES


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
    return registry.predict(model, {"features": tf.constant(features, tf.float32)}).numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_logistic_model_by_hand():
    # [3, 4] has length 5: the unit sees [0.6, 0.8].
    model = registry.create(flags())
    set_weights(
        model, classes_kernel=[[0.0, 1.0, -5.0], [0.0, 1.0, 5.0]], classes_bias=[0.0, 0.6, -1.0]
    )
    expected = sigmoid(np.array([0.0, 0.6 + 0.8 + 0.6, -3 + 4 - 1]))
    assert predict(model, [[3.0, 4.0]])[0] == pytest.approx(expected, rel=1e-6)


def test_features_are_normalised_jointly():
    # As one vector of length 5, not as two of length 1 each.
    model = registry.create(flags(feature_names="rgb,audio", feature_sizes="1,1"))
    set_weights(model, classes_kernel=np.eye(2, 3), classes_bias=np.zeros(3))
    expected = sigmoid(np.array([0.6, 0.8, 0.0]))
    assert predict(model, [[3.0, 4.0]])[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["LogisticModel", "MoeModel"])
def test_the_length_of_the_features_does_not_matter(name):
    model = registry.create(flags(model=name))
    got = predict(model, [[3.0, -4.0], [0.003, -0.004], [3e4, -4e4]])
    assert got[1] == pytest.approx(got[0], rel=1e-5)
    assert got[2] == pytest.approx(got[0], rel=1e-5)


@pytest.mark.parametrize(
    "name, expected", [("LogisticModel", [0.5, 0.5, 0.5]), ("MoeModel", [1 / 3, 1 / 3, 1 / 3])]
)
def test_features_of_nothing_but_zeros_leave_the_biases_to_decide(name, expected):
    # Biases start at 0. Two experts of three say 1/2 each, the third says no.
    assert predict(registry.create(flags(model=name)), [[0.0, 0.0]])[0] == pytest.approx(expected)


def test_moe_model_of_one_class_and_one_expert_by_hand():
    # The gates say log 3 for the expert, 0 for no: 3/4 and 1/4. The expert says 3/4.
    model = registry.create(flags(model="MoeModel", num_classes=1, moe_num_mixtures=1))
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

    model = registry.create(flags(model="MoeModel", moe_num_mixtures=num_mixtures))
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
    model = registry.create(flags(model="MoeModel", moe_num_mixtures=2))
    shapes = sorted(tuple(variable.shape) for variable in model.trainable_variables)
    assert shapes == [(2, 6), (2, 9), (6,)]


def test_moe_model_at_the_originals_size():
    model = registry.create(flags(model="MoeModel", feature_sizes="1152", num_classes=3862))
    assert model.count_params() == 1152 * 3862 * 3 + 1152 * 3862 * 2 + 3862 * 2


@pytest.mark.parametrize(
    "name, kernels", [("LogisticModel", [(2, 3)]), ("MoeModel", [(2, 9), (2, 6)])]
)
def test_the_penalty_is_1e_8_times_half_the_sum_of_squares_of_kernels_alone(name, kernels):
    model = registry.create(flags(model=name))
    for variable in model.trainable_variables:
        variable.assign(tf.fill(variable.shape, 100.0))
    predict(model, [[3.0, 4.0]])
    num_weights = sum(rows * columns for rows, columns in kernels)
    expected = 1e-8 * num_weights * 100.0**2 / 2
    got = float(regularization.loss(model.trainable_variables))
    assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["LogisticModel", "MoeModel"])
def test_weights_start_as_the_originals(name):
    # Glorot's uniform kernels: within sqrt(6 / (inputs + outputs)). Biases of 0.
    keras.utils.set_random_seed(3)
    model = registry.create(flags(model=name, feature_sizes="50", num_classes=40))
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
        return registry.create(flags(model="MoeModel")).get_weights()

    once, again, other = first_weights(1), first_weights(1), first_weights(2)
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    assert not np.array_equal(once[0], other[0])


@pytest.mark.parametrize("name", ["LogisticModel", "MoeModel"])
def test_predictions_are_probabilities_of_any_batch(name):
    model = registry.create(flags(model=name))
    features = np.random.default_rng(0).normal(size=[7, 2])
    together = predict(model, features)
    assert together.shape == (7, 3)
    assert together.dtype == np.float32
    assert ((together > 0) & (together < 1)).all()
    assert predict(model, features[:1]) == pytest.approx(together[:1], rel=1e-6)
    assert predict(model, features[:0]).shape == (0, 3)


def logistic_formula(product, bias):
    """Probabilities from the output of Logistic, in float64."""
    return tf.sigmoid(product + bias)


def moe_formula(gate_logits, expert_products, expert_biases):
    """Probabilities from the output of Moe, in float64."""
    experts = tf.sigmoid(expert_products + expert_biases)
    return tf.reduce_sum(tf.nn.softmax(gate_logits, axis=1)[:, :-1] * experts, axis=1)


LABELS = tf.constant([[2, 0], [1, -1], [-1, -1], [2, 1]])
# The classifier, its formula, and the shapes of its outputs for the 4 videos of LABELS.
CLASSIFIERS = {
    "logistic": (Logistic(3), logistic_formula, [[4, 3], [3]]),
    "1 expert": (Moe(3, 1), moe_formula, [[4, 2, 3], [4, 1, 3], [1, 3]]),
    "2 experts": (Moe(3, 2), moe_formula, [[4, 3, 3], [4, 2, 3], [2, 3]]),
    "5 experts": (Moe(3, 5), moe_formula, [[4, 6, 3], [4, 5, 3], [5, 3]]),
}


def assert_gradients_are_those_of_the_formula(name, loss, outputs, tolerance):
    classifier, formula, _ = CLASSIFIERS[name]
    label_loss, labels = losses.get(loss), losses.multi_hot(LABELS, 3)
    exact = [tf.cast(output, tf.float64) for output in outputs]
    with tf.GradientTape() as tape:
        tape.watch(exact)
        expected = formula(*exact)
        total = 0.25 * tf.reduce_sum(label_loss(labels, tf.cast(expected, tf.float32)))

    @tf.function(jit_compile=True)
    def probabilities_and_gradients(outputs):
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            probabilities = registry.probabilities(classifier, outputs)
            total = 0.25 * tf.reduce_sum(label_loss(labels, probabilities))
        return probabilities, tape.gradient(total, outputs)

    probabilities, gradients = probabilities_and_gradients(outputs)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    for output, got, wanted in zip(outputs, gradients, tape.gradient(total, exact), strict=True):
        assert got.dtype == output.dtype
        assert np.isfinite(tf.cast(got, tf.float32)).all()
        np.testing.assert_allclose(tf.cast(got, tf.float64), wanted, tolerance, tolerance / 10)


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_gradients_are_those_of_the_formula(name, loss):
    shapes = CLASSIFIERS[name][2]
    outputs = [tf.random.stateless_normal(shape, [0, n]) for n, shape in enumerate(shapes)]
    assert_gradients_are_those_of_the_formula(name, loss, outputs, 1e-4)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_gradients_have_the_type_of_the_outputs(name):
    *products, bias = CLASSIFIERS[name][2]
    outputs = [
        tf.cast(tf.random.stateless_normal(shape, [0, n]), tf.bfloat16)
        for n, shape in enumerate(products)
    ]
    outputs.append(tf.random.stateless_normal(bias, [0, 9]))
    assert_gradients_are_those_of_the_formula(name, "CrossEntropyLoss", outputs, 0.02)


@pytest.mark.parametrize("logit", [-1000.0, -100.0, -30.0, 30.0, 100.0, 1000.0])
def test_the_mixture_stays_finite_for_any_gate_logits(logit):
    gate_logits = tf.concat([tf.fill([4, 1, 3], logit), tf.zeros([4, 2, 3])], axis=1)
    experts = tf.random.stateless_normal([4, 2, 3], [0, 0])
    outputs = [gate_logits, experts, tf.zeros([2, 3])]
    assert_gradients_are_those_of_the_formula("2 experts", "CrossEntropyLoss", outputs, 1e-3)


@pytest.mark.parametrize("name", ["LogisticModel", "MoeModel"])
def test_a_model_predicts_the_same_in_training(name):
    model = registry.create(flags(model=name))
    inputs = {"features": tf.random.stateless_normal([4, 2], [0, 0])}
    outputs = registry.call(model, inputs, training=True)
    in_training = registry.probabilities(model, outputs)
    np.testing.assert_allclose(in_training, predict(model, inputs["features"]), rtol=1e-5)


def test_the_gate_probabilities_of_a_class_sum_to_1():
    model = registry.create(flags(model="MoeModel"))
    classifier = model.classifier
    gates, _ = classifier.mixture(classifier(tf.constant([[0.6, 0.8], [0.0, 0.0]])))
    assert gates.shape == (2, 3, 3)
    assert gates.numpy().sum(axis=1) == pytest.approx(np.ones([2, 3]))
    assert gates[1].numpy() == pytest.approx(np.full([3, 3], 1 / 3))
