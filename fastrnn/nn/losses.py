"""Losses: each returns its value and its gradient together.

Both are means over what is counted. A boolean ``mask`` says what that is (True counts), so that a ragged batch needs
no special numbers in its padding: whatever stands where the mask is False, NaN included, is never looked at and has a
zero gradient. With nothing counted (an empty batch, a mask all False) there is no mean: that is a ValueError.

The mask of a ragged batch with ``lengths`` (B,), time first::

    mask = np.arange(T)[:, None] < lengths        # (T, B)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .module import BoolArray, FloatArray, bool_array, float_array, index_array


def softmax_cross_entropy(
    logits: ArrayLike, targets: ArrayLike, *, mask: ArrayLike | None = None, class_weight: ArrayLike | None = None
) -> tuple[float, FloatArray]:
    """Mean of ``-log softmax(logits)[target]`` over the counted targets, and its gradient.

    Parameters
    ----------
    logits : array_like, shape (..., C)
        Scores before the softmax, of any size; the classes are the last axis. -inf rules a class out.
    targets : array_like of int, shape (...)
        Class numbers ``0 .. C - 1``; anything where ``mask`` is False.
    mask : array_like of bool, shape (...), optional
        True where a target counts; all do by default.
    class_weight : array_like, shape (C,), optional
        Weight of each class, at least 0: the loss is the weighted mean, divided by the sum of the counted targets'
        weights (as ``weight`` in ``torch.nn.functional.cross_entropy``).

    Returns
    -------
    loss : float
        In nats, summed in float64.
    dlogits : ndarray, shape (..., C)
        Gradient with respect to ``logits``; zeros where ``mask`` is False. float32 if ``logits`` are (or are float16),
        else float64.

    Raises
    ------
    TypeError, ValueError
        For wrong types or shapes, a counted target out of range, or if nothing is counted.

    Examples
    --------
    >>> loss, dlogits = softmax_cross_entropy([[0.0, 0.0], [5.0, 1.0]], [0, -100], mask=[True, False])
    >>> round(loss, 4)
    0.6931
    >>> dlogits
    array([[-0.5,  0.5],
           [ 0. ,  0. ]])
    """
    logits = float_array("logits", logits)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits must have shape (..., C) with C at least 1; got {logits.shape}")
    shape, classes = logits.shape[:-1], logits.shape[-1]
    counted = np.ones(shape, np.bool_) if mask is None else bool_array("mask", mask, shape)
    chosen = index_array("targets", targets, classes, f"logits have {classes} classes", shape, counted)[counted]
    _check_any("targets", shape, counted)
    weights = np.ones(chosen.shape) if class_weight is None else _class_weights(class_weight, classes)[chosen]
    total = float(weights.sum())
    if total == 0.0:
        raise ValueError("class_weight must be above 0 for some counted target; got 0 for all of them")

    places = np.arange(chosen.size)
    rows = logits[counted]  # a copy: worked on in place
    with np.errstate(over="ignore"):  # the largest finite number above the smallest: -inf is right
        rows -= rows.max(axis=1, keepdims=True)
    picked = rows[places, chosen].astype(np.float64)
    np.exp(rows, out=rows)
    sums = rows.sum(axis=1, keepdims=True)
    loss = float(np.dot(weights, np.log(sums[:, 0].astype(np.float64)) - picked) / total)
    rows /= sums
    rows[places, chosen] -= 1.0
    rows *= (weights / total)[:, None].astype(rows.dtype)
    dlogits = np.zeros_like(logits, order="C")
    dlogits[counted] = rows
    return loss, dlogits


def mean_squared_error(
    prediction: ArrayLike, target: ArrayLike, *, mask: ArrayLike | None = None
) -> tuple[float, FloatArray]:
    """Mean of ``(prediction - target)**2`` over the counted elements, and its gradient.

    Parameters
    ----------
    prediction : array_like, any shape
    target : array_like, prediction's shape
        Shapes must be equal: nothing is broadcast.
    mask : array_like of bool, optional
        True where an element counts; all do by default. Its shape is prediction's, or prediction's first axes: a mask
        (T, B) counts whole vectors of a prediction (T, B, K).

    Returns
    -------
    loss : float
        Summed in float64, divided by the number of counted elements.
    dprediction : ndarray, prediction's shape
        Gradient with respect to ``prediction``; zeros where ``mask`` is False. float32 if ``prediction`` is (or is
        float16), else float64.

    Raises
    ------
    TypeError, ValueError
        For wrong types or shapes, or if nothing is counted.

    Examples
    --------
    >>> mean_squared_error([1.0, 2.0, 7.0], [1.0, 4.0, 0.0], mask=[True, True, False])
    (2.0, array([ 0., -2.,  0.]))
    """
    prediction = float_array("prediction", prediction)
    target = float_array("target", target, prediction.dtype, shape=prediction.shape)
    counted = np.ones(prediction.shape, np.bool_) if mask is None else bool_array("mask", mask)
    if counted.shape != prediction.shape[: counted.ndim]:
        raise ValueError(f"mask must have prediction's shape {prediction.shape} or its first axes; got {counted.shape}")
    _check_any("prediction", prediction.shape, counted)
    difference = prediction[counted] - target[counted]
    loss = float(np.square(difference, dtype=np.float64).mean())
    difference *= 2.0 / difference.size
    dprediction = np.zeros_like(prediction, order="C")
    dprediction[counted] = difference
    return loss, dprediction


def _class_weights(class_weight: ArrayLike, classes: int) -> FloatArray:
    weights = float_array("class_weight", class_weight, np.dtype(np.float64), shape=(classes,))
    wrong = ~((weights >= 0.0) & (weights < np.inf))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(f"class_weight must be finite and at least 0; got {weights[at]} at index {at}")
    return weights


def _check_any(name: str, shape: tuple[int, ...], counted: BoolArray) -> None:
    """There is no mean of nothing."""
    if 0 in shape:
        raise ValueError(f"{name} must have an element to take the mean of; got shape {shape}")
    if not counted.any():
        raise ValueError("mask must be True somewhere, a mean needs an element; got all False")
