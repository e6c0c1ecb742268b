"""A recurrent layer of any cell: layers, directions, parameters, and the calls. What users hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastrnn import checks, configuration
from fastrnn.backends import choose, choose_again
from fastrnn.backends.contract import Array, Rows
from fastrnn.equations import Cell, Sizes, trace
from fastrnn.initial import initial_values
from fastrnn.layer import Layer
from fastrnn.layout import Layout, StateLayout, plain_rows
from fastrnn.parameters import Parameters, ParameterStore
from fastrnn.plan import plan
from fastrnn.stack import Stack
from fastrnn.stream import Stream
from fastrnn.summary import Gate, gate_blocks, gate_slice, parameter_suffix, summary

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from fastrnn.tape import Gradients, Tape

_MADE = frozenset({"_stack", "_width", "_store", "_packs", "_layout", "_states"})  # by `_make`, again in each copy


@lru_cache(maxsize=1)
def _tape_types() -> tuple[type[Tape], type[Gradients]]:
    """Not before there is one to make: inference starts sooner without. To import them again costs a microsecond."""
    from fastrnn.tape import Gradients, Tape

    return Tape, Gradients


class Recurrent:
    """A recurrent layer of any cell.

    Parameters
    ----------
    cell : function or Cell
        The cell's equations, such as `fastrnn.cells.lstm_peephole` or one of your own; see `fastrnn.equations`.
    input_size : int
        I, the size of the last axis of x.
    hidden_size : int
        H, the number of units.
    num_layers : int
        L, layers one upon the other.
    bidirectional : bool
        Whether each layer runs over the sequence in both directions (D = 2); the outputs stand side by side.
    batch_first : bool
        Whether x and y are (B, T, ...) and not (T, B, ...). States are the same in both.
    bias : bool
        Whether the gates have biases.
    dropout : float
        The share of each layer's output, but the last one's, that `record` drops. A plain call drops nothing. It can
        be set later; no other argument can.
    proj_size : int
        P, for a cell with a projection: the size of its output. 0 for any other.
    dtype : {"float32", "float64"}
        Of the parameters and of all that is computed. Inputs of another dtype are converted to it.
    seed : int or None
        Where the initial parameters and the dropout come from; None for others each time.
    recurrent_init : {"uniform", "orthogonal"}
        How the recurrent weights begin: uniform like all others, or orthogonal gate by gate.
    forget_bias : float or None
        The initial bias of gate ``f``, for cells that have one; None: uniform like all others.
    backend : {"numba", "cython", "numpy"} or None
        What computes; None for the variable ``FASTRNN_BACKEND`` or else the first that is available. The extension of
        "cython" has the cells of `fastrnn.cells` alone: by default, any other goes to the next backend, with a warning.

    Attributes
    ----------
    cell : Cell
        The traced cell; its ``gates`` and ``states`` are names in order.
    backend : str
        The backend's name.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong type or out of range, and (`fastrnn.equations.CellError`) for a cell that is none.
    RuntimeError
        If the backend that was asked for is not available, or does not take the cell.

    Notes
    -----
    Parameters are uniform in -1/sqrt(H) to 1/sqrt(H), as in PyTorch. There is one bias a gate.

    Layers may be called from any number of threads at once.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> layer = fastrnn.Recurrent(fastrnn.cells.lstm_peephole, 80, 12)
    >>> y, (h, c) = layer(np.zeros((5, 3, 80), np.float32))
    >>> y.shape, h.shape
    ((5, 3, 12), (1, 3, 12))
    """

    _FIXED: ClassVar[frozenset[str]] = configuration.FIXED  # a subclass adds its own

    def __init__(
        self,
        cell: Callable[..., Any] | Cell,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        batch_first: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        proj_size: int = 0,
        dtype: DTypeLike = "float32",
        seed: int | None = 0,
        recurrent_init: str = "uniform",
        forget_bias: float | None = None,
        backend: str | None = None,
    ) -> None:
        self.cell = trace(cell)
        self.input_size = checks.size("input_size", input_size)
        self.hidden_size = checks.size("hidden_size", hidden_size)
        self.num_layers = checks.size("num_layers", num_layers)
        self.bidirectional = checks.flag("bidirectional", bidirectional)
        self.batch_first = checks.flag("batch_first", batch_first)
        self.bias = checks.flag("bias", bias)
        self.dropout = checks.fraction("dropout", dropout)
        self.proj_size = configuration.projection(self.cell, proj_size)
        self.dtype = checks.float_dtype(dtype)
        self.seed = checks.seed(seed)
        self.recurrent_init = checks.word("recurrent_init", recurrent_init, ("uniform", "orthogonal"))
        self.forget_bias = configuration.forget_bias(self.cell, self.bias, forget_bias)
        self.backend = choose(backend, self.cell)
        self._make()

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse what would be half obeyed: all is made from the configuration, which only the dropout can leave."""
        made = hasattr(self, "_stack")  # not by `__dict__`: to ask for that makes every attribute slower
        if made and name in self._FIXED:
            raise AttributeError(f"{type(self).__name__}.{name} cannot be changed: make a new layer")
        if made and name == "dropout":
            self._stack.dropout = value = checks.fraction("dropout", value)
        super().__setattr__(name, value)

    def _make(self) -> None:
        """All that is made from the configuration."""
        directions = 2 if self.bidirectional else 1
        first = Sizes(self.input_size, self.hidden_size, self.proj_size)
        upper = first._replace(input_size=directions * first.width(self.cell.state_widths[0]))
        configuration.check_total(self.cell, first, upper, self.num_layers, directions, self.bias, self.dtype)
        sizes = [first] + [upper] * (self.num_layers - 1)
        made = plan(self.cell)
        layers = [Layer(made, each, directions, self.bias, self.dtype, self.backend) for each in sizes]
        self._stack = Stack(layers, self.dropout, self.seed)
        self._width = self._stack.output_size
        forget = gate_slice(self.cell.input_gates, "f", self.hidden_size) if self.forget_bias is not None else None
        values = initial_values(
            self._stack.shapes, self.hidden_size, self.seed, self.recurrent_init, forget, self.forget_bias or 0.0
        )
        self._store = ParameterStore(values, self.dtype, self._stack.packs)
        self._packs = self._store.packs
        self._layout = Layout(self.input_size, self.batch_first, self.dtype)
        count = self.num_layers * directions
        self._states = StateLayout(self.cell.states, layers[0].state_sizes, count, self.dtype)

    def __getstate__(self) -> dict[str, Any]:
        """What pickling and copying take: all attributes but what `_make` makes, a subclass's own among them.

        The parameters, with where the dropout has got to, have the name of a property, which no attribute can have.
        """
        state = {name: value for name, value in self.__dict__.items() if name not in _MADE}
        state["cell"] = self.cell.function
        return state | {"parameters": (self._store.values(), self._stack.dropout_state)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        own = dict(state)
        values, dropout_state = own.pop("parameters")
        own["cell"] = cell = trace(state["cell"])
        own["dtype"] = checks.float_dtype(state["dtype"])  # an unpickled or copied one is equal, but another object
        own["backend"] = choose_again(state["backend"], cell)
        self.__dict__.update(own)
        self._make()
        self._store.set(values)
        self._stack.dropout_state = dropout_state

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._arguments())})"

    def _arguments(self) -> list[str]:
        """The arguments of the constructor, without those that are as by default."""
        given = {name: getattr(self, name) for name in configuration.DEFAULTS}
        changed = [f"{name}={value!r}" for name, value in given.items() if value != configuration.DEFAULTS[name]]
        dtype = [] if self.dtype == checks.FLOAT32 else [f"dtype={self.dtype.name!r}"]
        return [*self._cell_argument(), str(self.input_size), str(self.hidden_size), *changed, *dtype, *self._options()]

    def _cell_argument(self) -> list[str]:
        return [self.cell.name]

    def _options(self) -> list[str]:
        return []

    def __call__(
        self, x: ArrayLike, state: Any = None, lengths: ArrayLike | None = None, sequence: bool = True
    ) -> tuple[Array, Any]:
        """Run the layer over whole sequences.

        Parameters
        ----------
        x : array_like, shape (T, B, I), with batch_first (B, T, I); or (T, I) without a batch
            Never modified. NaN and infinities are computed with, as IEEE 754 has it.
        state : array_like or tuple of array_like, each (L*D, B, S), without a batch (L*D, S)
            The initial state, h before c: the array for a cell with one state, a tuple for one with more. S is H, but P
            for a projected h. None for zeros.
        lengths : array_like of int, shape (B,)
            How many steps of each row are valid, from 0 to T, in any order. None for all.
        sequence : bool
            Whether all outputs are wanted, or only each row's last valid one.

        Returns
        -------
        y : ndarray, shape (T, B, D*H), laid out as x; (B, D*H) or (D*H,) with ``sequence=False``
            Zero past a row's end; P takes the place of H in a projected layer.
        state : ndarray or tuple of ndarray
            The state after each row's last valid step, in the form of the argument.

        Raises
        ------
        TypeError, ValueError
            For an argument of the wrong type or shape, before anything is computed.
        """
        packs = self._store.current or self._packs()
        xt, batched = self._layout.input(x)
        steps, batch, _ = xt.shape
        rows = plain_rows(steps, batch) if lengths is None else self._ragged_rows(steps, batch, lengths)
        first = None if state is None else self._states.read("state", state, batch, batched)
        final = self._states.empty(batch)
        if sequence is True or checks.flag("sequence", sequence):
            y, yt = self._layout.output(rows, self._width, batched)
        else:
            yt = np.zeros((batch, self._width), self.dtype)
            y = yt if batched else yt[0]
        self._stack.forward(packs, rows, xt, yt, first, final)
        return y, self._states.present(final, batched)

    def record(
        self,
        x: ArrayLike,
        state: Any = None,
        lengths: ArrayLike | None = None,
        sequence: bool = True,
        checkpoint_every: int | None = None,
    ) -> tuple[Array, Any, Tape]:
        """Run the layer and keep what `backward` needs. This is where dropout is applied.

        Parameters
        ----------
        x, state, lengths, sequence
            As when the layer is called.
        checkpoint_every : int or None
            k, at least 1: of each layer and direction keep only its input and the states before every k-th step, not
            all that backward needs. `backward` then runs forward a second time, k steps at a time, and holds what it
            needs for those alone. The gradients are the same, with the Numba backend to the bit.

        Returns
        -------
        y, state : as when the layer is called
        tape : Tape
            For `backward`. It holds its own copies of x and of the parameters; `Tape.nbytes` says how much it holds.

        Raises
        ------
        TypeError, ValueError
            As when the layer is called.
        """
        sequence = sequence is True or checks.flag("sequence", sequence)
        every = None if checkpoint_every is None else checks.size("checkpoint_every", checkpoint_every)
        packs = self._packs()
        xt, batched = self._layout.input(x, True)
        steps, batch, _ = xt.shape
        rows = plain_rows(steps, batch) if lengths is None else self._ragged_rows(steps, batch, lengths)
        first = None if state is None else self._states.read("state", state, batch, batched, copy=True)
        final = self._states.empty(batch)
        y, yt = self._layout.output(rows, self._width, batched)
        tape_type, _ = _tape_types()
        tapes, masks = self._stack.record(packs, rows, xt, yt, first, final, every)
        tape = tape_type(self, rows, tapes, masks, batched, sequence, every is not None)
        if not sequence:
            y = self._layout.last(rows, yt, batched)
        return y, self._states.present(final, batched), tape

    def backward(self, tape: Tape, dy: ArrayLike | None = None, dstate: Any = None) -> Gradients:
        """The gradients of a loss with respect to x, the initial state and the parameters.

        Parameters
        ----------
        tape : Tape
            From this layer's `record`. It can be used any number of times, from several threads at once.
        dy : array_like, in the shape of y
            The gradient of the loss with respect to y; what stands past a row's end is not read. None for zeros.
        dstate : array_like or tuple of array_like, in the form of the state
            The gradient with respect to the final state. None for zeros.

        Returns
        -------
        Gradients
            ``x``, ``state`` and ``parameters``.

        Raises
        ------
        TypeError, ValueError
            For a tape that is not this layer's, for gradients of a wrong shape, or if neither is given.
        """
        tape_type, gradients = _tape_types()
        if not isinstance(tape, tape_type):
            raise TypeError(f"tape: expected a Tape from this layer's record, got {checks.described(tape)}")
        if tape.layer is not self:
            raise ValueError(f"tape: expected one that this layer recorded, got one of {tape.layer!r}")
        if dy is None and dstate is None:
            raise ValueError("dy, dstate: expected at least one of them, got None and None")
        rows, batched = tape._rows, tape._batched
        dyt = self._layout.output_gradient(dy, rows, self._width, batched, tape._sequence)
        if dstate is None:
            ends = self._states.zeros(rows.batch)
        else:
            ends = self._states.read("dstate", dstate, rows.batch, batched, copy=True)
        dxt, parameters = self._stack.backward(tape._tapes, tape._masks, rows, dyt, ends, tape._checkpoints)
        return gradients(self._layout.input_gradient(dxt, batched), self._states.present(ends, batched), parameters)

    def _ragged_rows(self, steps: int, batch: int, lengths: ArrayLike) -> Rows:
        copy = checks.lengths(lengths, batch)
        rows = self._stack.layers[0].backend.rows(steps, copy)
        if rows is None:
            raise checks.wrong_lengths(lengths, copy, steps)
        return rows

    def stream(self, batch_size: int = 1) -> Stream:
        """A session that goes on from call to call: one step or some steps at a time, with the state kept.

        Parameters
        ----------
        batch_size : int
            How many sequences go side by side, at least 1.

        Returns
        -------
        Stream

        Raises
        ------
        ValueError
            For a bidirectional layer: it needs the whole sequence.
        TypeError, ValueError
            If `batch_size` is not an integer of at least 1.
        """
        return Stream(self, batch_size)

    @property
    def parameters(self) -> Parameters:
        """The parameters by name. Each array is on the layer's own memory: the next call sees what is written to it.

        As long as such an array or a view of it is alive, each call looks for changes, which takes as long as reading
        the parameter; whoever only wants the values for long keeps a copy, such as ``layer.parameters.copy()``.
        """
        return Parameters(self._store)

    @property
    def num_parameters(self) -> int:
        """How many numbers all parameters hold together."""
        return sum(math.prod(shape) for shape in self._store.shapes.values())

    def set_parameters(self, values: Mapping[str, ArrayLike]) -> None:
        """Copy new values into some or all parameters.

        Parameters
        ----------
        values : mapping of str to array_like
            By name, each in its parameter's shape; converted to the layer's dtype.

        Raises
        ------
        TypeError, ValueError
            For a name that is none, a wrong shape, or values that are not real numbers; then no parameter has changed.
        """
        self._store.set(values)

    def gate(self, name: str, layer: int = 0, reverse: bool = False) -> Gate:
        """One gate's blocks of the parameters.

        Parameters
        ----------
        name : str
            The gate's name in the cell's equations, as ``"f"`` in an LSTM.
        layer : int
            From 0 to L - 1.
        reverse : bool
            Whether the second direction is meant.

        Returns
        -------
        Gate
            Views on the layer's own memory: ``weight_ih``, ``weight_hh``, ``bias`` and others.

        Raises
        ------
        TypeError, ValueError
            For a gate, a layer or a direction that the layer does not have.
        """
        name = checks.word("name", name, self.cell.gates)
        suffix = parameter_suffix(layer, self.num_layers, reverse, self.bidirectional)
        return gate_blocks(self.cell, name, self.hidden_size, self.parameters, suffix)

    def summary(self) -> str:
        """A table of the numbers of parameters: a row for each layer and direction, and the total."""
        layers = [
            (f"{index}{' reverse' if direction else ''}", layer.shapes)
            for index, layer in enumerate(self._stack.layers)
            for direction in range(layer.directions)
        ]
        return summary(repr(self), layers)
