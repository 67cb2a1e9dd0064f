"""The matrix products in the graph of a train step, to time them alone."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import tensorflow as tf

# Operations that run functions -> their attribute that names the function.
CALLS = {"PartitionedCall": "f", "StatefulPartitionedCall": "f"}
LOOPS = {"While": "body", "StatelessWhile": "body"}
CHOICES = {"If": "then_branch", "StatelessIf": "then_branch"}
PRODUCTS = {"MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"}


class Product(NamedTuple):
    """A matrix product: shapes and type of its factors, and whether they are transposed."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    transpose_left: bool
    transpose_right: bool
    dtype: tf.DType


def find(function, iterations: int) -> Counter[Product]:
    """Count the matrix products in one call of a concrete function.

    Args:
        function: concrete function, traced for inputs of static shapes.
        iterations: number of iterations of each loop.

    Raises:
        ValueError: the shape of a product is not static.
    """
    return _tally(function.graph, 1, iterations)


def only(products: Counter[Product]) -> Callable[[], None]:
    """Return a function that computes these products of random matrices."""
    runs = []
    for product, count in products.items():
        left = tf.cast(tf.random.normal(product.left), product.dtype)
        right = tf.cast(tf.random.normal(product.right), product.dtype)
        runs.append((product, left, right, count))

    def run():
        for product, left, right, count in runs:
            for _ in range(count):
                tf.matmul(
                    left,
                    right,
                    transpose_a=product.transpose_left,
                    transpose_b=product.transpose_right,
                )

    return run


def _tally(graph, times: int, iterations: int) -> Counter[Product]:
    tally = Counter()
    for operation in _needed(graph):
        if operation.type in PRODUCTS and 1 not in (product := _product(operation)).left:
            tally[product] += times  # a product with a single row is a sum
        for table, factor in ((CALLS, 1), (LOOPS, iterations), (CHOICES, 1)):
            if operation.type in table:
                name = operation.get_attr(table[operation.type]).name
                inner = operation.graph._get_function(name).graph
                tally += _tally(inner, times * factor, iterations)
    return tally


def _needed(graph) -> Iterator[tf.Operation]:
    """Operations that a graph's outputs and side effects depend on; others never run."""
    waiting = [tensor.op for tensor in graph.outputs] + list(graph.control_outputs)
    seen = set()
    while waiting:
        operation = waiting.pop()
        if operation not in seen:
            seen.add(operation)
            yield operation
            waiting += [tensor.op for tensor in operation.inputs]
            waiting += operation.control_inputs


def _product(operation) -> Product:
    left, right = (tensor.shape for tensor in operation.inputs)
    if not (left.is_fully_defined() and right.is_fully_defined()):
        raise ValueError(f"{operation.name} multiplies {left} by {right}, of unknown size.")
    names = ("transpose_a", "transpose_b") if operation.type == "MatMul" else ("adj_x", "adj_y")
    transposes = (operation.get_attr(name) for name in names)
    return Product(tuple(left), tuple(right), *transposes, operation.inputs[0].dtype)
