"""A table of vectors, looked up by integer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .module import (
    FloatArray,
    Gradients,
    IntArray,
    Module,
    check_tape,
    float_array,
    float_dtype,
    generator,
    index_array,
    index_below,
    positive_integer,
)


@dataclass(frozen=True, eq=False)
class EmbeddingTape:
    """What `Embedding.record` keeps for `Embedding.backward`.

    Attributes
    ----------
    layer : Embedding
        The layer that recorded it.
    indices : ndarray of int, any shape
        A copy.
    """

    layer: Embedding
    indices: IntArray


class Embedding(Module):
    """A table of vectors, looked up by integer.

    Parameters
    ----------
    num_embeddings : int
        Rows of the table: indices are ``0 .. num_embeddings - 1``.
    embedding_dim : int
        Length of each vector.
    padding_idx : int, optional
        A row that stands for padding: it starts as zeros and never has a gradient.
    dtype : {"float32", "float64"}
        Of the table and of everything returned.
    seed : int, numpy.random.Generator or None
        Where the initial table comes from; None for a different one each time.

    Attributes
    ----------
    parameters : mapping of str to ndarray
        ``weight`` (num_embeddings, embedding_dim).

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong type or out of range.

    Notes
    -----
    Names and initialisation (standard normal) are those of ``torch.nn.Embedding``. Negative indices are refused, in
    ``padding_idx`` as well.

    Examples
    --------
    >>> embedding = Embedding(10, 3, padding_idx=0)
    >>> embedding([[4, 2, 0], [4, 0, 0]]).shape
    (2, 3, 3)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        dtype: DTypeLike = "float32",
        seed: int | np.random.Generator | None = 0,
    ) -> None:
        self.num_embeddings = positive_integer("num_embeddings", num_embeddings)
        self.embedding_dim = positive_integer("embedding_dim", embedding_dim)
        self.padding_idx = None if padding_idx is None else index_below("padding_idx", padding_idx, self.num_embeddings)
        number_type = float_dtype(dtype)
        weight = generator(seed).standard_normal((self.num_embeddings, self.embedding_dim)).astype(number_type)
        if self.padding_idx is not None:
            weight[self.padding_idx] = 0.0
        super().__init__({"weight": weight}, number_type)

    def __repr__(self) -> str:
        sizes = f"{self.num_embeddings}, {self.embedding_dim}"
        return f"Embedding({sizes}, padding_idx={self.padding_idx}, dtype={self.dtype.name!r})"

    def __call__(self, indices: ArrayLike) -> FloatArray:
        """Look the indices up.

        Parameters
        ----------
        indices : array_like of int, any shape
            Each in ``0 .. num_embeddings - 1``.

        Returns
        -------
        y : ndarray, shape (*indices.shape, embedding_dim)
            A copy of the rows.

        Raises
        ------
        TypeError, ValueError
            If ``indices`` are not integers, or one is out of range (the message names it and its place).
        """
        return self._forward(self._indices(indices))

    def record(self, indices: ArrayLike) -> tuple[FloatArray, EmbeddingTape]:
        """Look the indices up and keep what `backward` needs.

        Parameters
        ----------
        indices : array_like of int, any shape

        Returns
        -------
        y : ndarray, shape (*indices.shape, embedding_dim)
        tape : EmbeddingTape
            Holds a copy of ``indices``.

        Raises
        ------
        TypeError, ValueError
            As when the layer is called.
        """
        tape = EmbeddingTape(self, self._indices(indices).copy())
        return self._forward(tape.indices), tape

    def backward(self, tape: EmbeddingTape, dy: ArrayLike) -> Gradients[None]:
        """Gradient of a loss with respect to the table.

        Parameters
        ----------
        tape : EmbeddingTape
            From this layer's `record`; it can be used any number of times.
        dy : array_like, shape (*indices.shape, embedding_dim)
            Gradient of the loss with respect to ``y``.

        Returns
        -------
        grads : Gradients
            ``grads.parameters["weight"]``, dense, (num_embeddings, embedding_dim): each row the sum over all places
            its index stood; zeros in rows that were not looked up and in the padding row. ``grads.x`` is None.

        Raises
        ------
        TypeError, ValueError
            If the tape is not this layer's, or ``dy`` is not real numbers in ``y``'s shape.
        """
        check_tape(tape, EmbeddingTape, self)
        dy = float_array("dy", dy, self.dtype, shape=(*tape.indices.shape, self.embedding_dim))
        indices = tape.indices.ravel()
        # Sorted, the places of one index lie side by side and one pass sums them (pairwise: many stay accurate).
        order = np.argsort(indices, kind="stable")
        if self.padding_idx is not None:
            order = order[indices[order] != self.padding_idx]
        rows = indices[order]
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        gradient = np.zeros((self.num_embeddings, self.embedding_dim), self.dtype)
        if starts.size:
            sorted_dy = dy.reshape(-1, self.embedding_dim)[order]
            gradient[rows[starts]] = np.add.reduceat(sorted_dy, starts, axis=0)
        return Gradients(None, {"weight": gradient})

    def _indices(self, indices: ArrayLike) -> IntArray:
        return index_array("indices", indices, self.num_embeddings, f"num_embeddings={self.num_embeddings}")

    def _forward(self, indices: IntArray) -> FloatArray:
        return np.take(self._parameters["weight"], indices, axis=0)
