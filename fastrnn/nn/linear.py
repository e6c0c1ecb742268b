"""A dense layer, ``y = x W^T + b``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .module import (
    FloatArray,
    Gradients,
    Module,
    boolean,
    check_tape,
    float_array,
    float_dtype,
    generator,
    positive_integer,
)


@dataclass(frozen=True, eq=False)
class LinearTape:
    """What `Linear.record` keeps for `Linear.backward`: its own copies, which no later change can reach.

    Attributes
    ----------
    layer : Linear
        The layer that recorded it.
    x : ndarray, shape (..., in_features)
    weight : ndarray, shape (out_features, in_features)
    """

    layer: Linear
    x: FloatArray
    weight: FloatArray


class Linear(Module):
    """A dense layer, ``y = x W^T + b``, applied to the last axis.

    Parameters
    ----------
    in_features, out_features : int
        Size of the last axis of the input and of the output.
    bias : bool
        Whether to add ``b``.
    dtype : {"float32", "float64"}
        Of the parameters and of everything returned.
    seed : int, numpy.random.Generator or None
        Where the initial parameters come from; None for different ones each time.

    Attributes
    ----------
    parameters : mapping of str to ndarray
        ``weight`` (out_features, in_features) and, with ``bias``, ``bias`` (out_features,).

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong type or out of range.

    Notes
    -----
    Layout and initialisation are those of ``torch.nn.Linear``: both parameters uniform in
    ``[-1/sqrt(in_features), 1/sqrt(in_features)]``, the scale of LeCun et al., "Efficient BackProp" (1998).

    The product is NumPy's, hence BLAS's: unlike in the recurrent layers, the last bits of a row's output may depend on
    how many rows are computed with it.

    Examples
    --------
    >>> linear = Linear(3, 2)
    >>> y, tape = linear.record([[1.0, 2.0, 3.0]])
    >>> grads = linear.backward(tape, [[1.0, 0.0]])
    >>> grads.parameters["weight"]
    array([[1., 2., 3.],
           [0., 0., 0.]], dtype=float32)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        dtype: DTypeLike = "float32",
        seed: int | np.random.Generator | None = 0,
    ) -> None:
        self.in_features = positive_integer("in_features", in_features)
        self.out_features = positive_integer("out_features", out_features)
        self.bias = boolean("bias", bias)
        number_type = float_dtype(dtype)
        random = generator(seed)
        bound = 1.0 / math.sqrt(self.in_features)
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        if self.bias:
            shapes["bias"] = (self.out_features,)
        values = {name: random.uniform(-bound, bound, shape).astype(number_type) for name, shape in shapes.items()}
        super().__init__(values, number_type)

    def __repr__(self) -> str:
        return f"Linear({self.in_features}, {self.out_features}, bias={self.bias}, dtype={self.dtype.name!r})"

    def __call__(self, x: ArrayLike) -> FloatArray:
        """Compute the output.

        Parameters
        ----------
        x : array_like, shape (..., in_features)
            Any number of leading axes, of any size, 0 included.

        Returns
        -------
        y : ndarray, shape (..., out_features)

        Raises
        ------
        TypeError, ValueError
            If ``x`` is not real numbers or its last axis is not ``in_features`` long.
        """
        return self._forward(self._input(x))

    def record(self, x: ArrayLike) -> tuple[FloatArray, LinearTape]:
        """Compute the output and keep what `backward` needs.

        Parameters
        ----------
        x : array_like, shape (..., in_features)

        Returns
        -------
        y : ndarray, shape (..., out_features)
        tape : LinearTape
            Holds copies of ``x`` and of the weight.

        Raises
        ------
        TypeError, ValueError
            As when the layer is called.
        """
        tape = LinearTape(self, self._input(x).copy(), self._parameters["weight"].copy())
        return self._forward(tape.x), tape

    def backward(self, tape: LinearTape, dy: ArrayLike) -> Gradients[FloatArray]:
        """Gradients of a loss with respect to the input and the parameters.

        Parameters
        ----------
        tape : LinearTape
            From this layer's `record`; it can be used any number of times.
        dy : array_like, shape (..., out_features)
            Gradient of the loss with respect to ``y``, in ``y``'s shape.

        Returns
        -------
        grads : Gradients
            ``grads.x`` in ``x``'s shape, ``grads.parameters["weight"]`` and, with a bias, ``grads.parameters["bias"]``,
            both summed over the leading axes.

        Raises
        ------
        TypeError, ValueError
            If the tape is not this layer's, or ``dy`` is not real numbers in ``y``'s shape.
        """
        check_tape(tape, LinearTape, self)
        dy = float_array("dy", dy, self.dtype, shape=(*tape.x.shape[:-1], self.out_features))
        dy_rows = dy.reshape(-1, self.out_features)
        x_rows = tape.x.reshape(-1, self.in_features)
        parameters: dict[str, FloatArray] = {"weight": dy_rows.T @ x_rows}
        if self.bias:
            parameters["bias"] = dy_rows.sum(axis=0, dtype=np.float64).astype(self.dtype)
        return Gradients((dy_rows @ tape.weight).reshape(tape.x.shape), parameters)

    def _input(self, x: ArrayLike) -> FloatArray:
        array = float_array("x", x, self.dtype)
        if array.ndim == 0 or array.shape[-1] != self.in_features:
            raise ValueError(f"x must have shape (..., in_features={self.in_features}); got {array.shape}")
        return array

    def _forward(self, x: FloatArray) -> FloatArray:
        y: FloatArray = x.reshape(-1, self.in_features) @ self._parameters["weight"].T
        if self.bias:
            y += self._parameters["bias"]
        return y.reshape(*x.shape[:-1], self.out_features)
