"""The oracle: every cell as scalar loops in float64, straight from the papers. It imports nothing of fastrnn.

Slow and plain on purpose: one unit, one gate, one row at a time, so that each line can be held against its equation.
Letters: T time steps, B batch, I input_size, H hidden_size, P proj_size, L layers, D directions, G gates.

The parameters of one layer and direction are a dict; what is missing counts as zero:

==============  ============  =============================================================================
``weight_ih``   (G*H, I)      input weights, the gates one below the other in the cell's order (``GATES``)
``weight_hh``   (G*H, Hs)     recurrent weights; Hs is the size of h, H or P (minGRU has none)
``bias``        (G*H,)        one bias a gate
``bias_hn``     (H,)          GRU with reset after the product: the bias inside the reset
``peephole_*``  (H,)          peephole LSTM: ``peephole_i``, ``peephole_f``, ``peephole_o``
``weight_hr``   (P, H)        projected LSTM
==============  ============  =============================================================================

``step`` is one row at one time, ``scan`` one layer in one direction, ``stack`` layers and directions under the public
parameter names. ``finite_differences`` gives gradients of any scalar function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from operator import mul
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
Vector = list[float]
Parameters = Mapping[str, Any]  # nested lists of floats inside the cells

GATES = {
    "rnn_tanh": "h",
    "rnn_relu": "h",
    "lstm": "ifgo",
    "lstm_peephole": "ifgo",
    "lstm_coupled": "fgo",
    "lstm_projected": "ifgo",
    "gru": "rzn",
    "gru_reset_before": "rzn",
    "mingru": "zn",
    "ligru": "zn",
}


# --- scalars and products ---------------------------------------------------------------------------------------------


def sigmoid(a: float) -> float:
    """1 / (1 + exp(-a)), without overflow; NaN stays NaN."""
    if a >= 0.0:
        return 1.0 / (1.0 + math.exp(-a))
    return math.exp(a) / (1.0 + math.exp(a))


def relu(a: float) -> float:
    """max(a, 0); NaN stays NaN."""
    return 0.0 if a < 0.0 else a


def dot(row: Vector, vector: Vector) -> float:
    """The sum of row[k] * vector[k]."""
    assert len(row) == len(vector), f"a row of {len(row)} weights meets a vector of {len(vector)}"
    return sum(map(mul, row, vector))


def rows_of(array: Any, gates: str, gate: str) -> Any:
    """The rows of one gate: of (G*H, K) or (G*H,), the H rows that stand at the gate's place in ``gates``."""
    size = len(array) // len(gates)
    start = gates.index(gate) * size
    return array[start : start + size]


def inputs(p: Parameters, x: Vector, gates: str) -> dict[str, Vector]:
    """For each gate by name W x + b, H values."""
    result = {}
    for gate in gates:
        weights = rows_of(p["weight_ih"], gates, gate)
        bias = rows_of(p["bias"], gates, gate) if "bias" in p else [0.0] * len(weights)
        result[gate] = [dot(row, x) + b for row, b in zip(weights, bias, strict=True)]
    return result


def recurrent(p: Parameters, h: Vector, gates: str, only: str | None = None) -> dict[str, Vector]:
    """For each gate by name R h, H values; ``only`` some of the gates if given."""
    return {gate: [dot(row, h) for row in rows_of(p["weight_hh"], gates, gate)] for gate in only or gates}


def vector_or_zeros(p: Parameters, name: str, size: int) -> Vector:
    """A parameter vector, or zeros where it is missing."""
    return p.get(name, [0.0] * size)


# --- cells: (parameters, x, states...) -> new states, the first of which is the output --------------------------------


def rnn_tanh(p: Parameters, x: Vector, h: Vector) -> tuple[Vector]:
    """J. L. Elman, Finding structure in time, Cognitive Science 14, 1990.

    h' = tanh(W x + R h + b)
    """
    a, r = inputs(p, x, "h"), recurrent(p, h, "h")
    return ([math.tanh(a["h"][u] + r["h"][u]) for u in range(len(h))],)


def rnn_relu(p: Parameters, x: Vector, h: Vector) -> tuple[Vector]:
    """Q. V. Le, N. Jaitly, G. E. Hinton, A simple way to initialize recurrent networks of rectified linear units, 2015
    (arXiv:1504.00941).

    h' = relu(W x + R h + b)
    """
    a, r = inputs(p, x, "h"), recurrent(p, h, "h")
    return ([relu(a["h"][u] + r["h"][u]) for u in range(len(h))],)


def lstm(p: Parameters, x: Vector, h: Vector, c: Vector) -> tuple[Vector, Vector]:
    """S. Hochreiter, J. Schmidhuber, Long short-term memory, Neural Computation 9, 1997; the forget gate f from
    F. A. Gers, J. Schmidhuber, F. Cummins, Learning to forget, Neural Computation 12, 2000.

    i = sigmoid(W_i x + R_i h + b_i)    f = sigmoid(W_f x + R_f h + b_f)
    g = tanh(W_g x + R_g h + b_g)       o = sigmoid(W_o x + R_o h + b_o)
    c' = f c + i g                      h' = o tanh(c')
    """
    a, r = inputs(p, x, "ifgo"), recurrent(p, h, "ifgo")
    h_new, c_new = [], []
    for u in range(len(c)):
        i = sigmoid(a["i"][u] + r["i"][u])
        f = sigmoid(a["f"][u] + r["f"][u])
        g = math.tanh(a["g"][u] + r["g"][u])
        o = sigmoid(a["o"][u] + r["o"][u])
        c_new.append(f * c[u] + i * g)
        h_new.append(o * math.tanh(c_new[u]))
    return h_new, c_new


def lstm_peephole(p: Parameters, x: Vector, h: Vector, c: Vector) -> tuple[Vector, Vector]:
    """F. A. Gers, J. Schmidhuber, Recurrent nets that time and count, IJCNN 2000; in this form A. Graves, Generating
    sequences with recurrent neural networks, 2013 (arXiv:1308.0850), equations 7 to 11.

    i = sigmoid(W_i x + R_i h + p_i c + b_i)    f = sigmoid(W_f x + R_f h + p_f c + b_f)
    g = tanh(W_g x + R_g h + b_g)               c' = f c + i g
    o = sigmoid(W_o x + R_o h + p_o c' + b_o)   h' = o tanh(c')
    """
    a, r = inputs(p, x, "ifgo"), recurrent(p, h, "ifgo")
    p_i = vector_or_zeros(p, "peephole_i", len(c))
    p_f = vector_or_zeros(p, "peephole_f", len(c))
    p_o = vector_or_zeros(p, "peephole_o", len(c))
    h_new, c_new = [], []
    for u in range(len(c)):
        i = sigmoid(a["i"][u] + r["i"][u] + p_i[u] * c[u])
        f = sigmoid(a["f"][u] + r["f"][u] + p_f[u] * c[u])
        g = math.tanh(a["g"][u] + r["g"][u])
        c_new.append(f * c[u] + i * g)
        o = sigmoid(a["o"][u] + r["o"][u] + p_o[u] * c_new[u])
        h_new.append(o * math.tanh(c_new[u]))
    return h_new, c_new


def lstm_coupled(p: Parameters, x: Vector, h: Vector, c: Vector) -> tuple[Vector, Vector]:
    """K. Greff et al., LSTM: a search space odyssey, 2015 (arXiv:1503.04069), variant CIFG, without peepholes.

    f = sigmoid(W_f x + R_f h + b_f)    i = 1 - f
    g = tanh(W_g x + R_g h + b_g)       o = sigmoid(W_o x + R_o h + b_o)
    c' = f c + i g                      h' = o tanh(c')
    """
    a, r = inputs(p, x, "fgo"), recurrent(p, h, "fgo")
    h_new, c_new = [], []
    for u in range(len(c)):
        f = sigmoid(a["f"][u] + r["f"][u])
        i = 1.0 - f
        g = math.tanh(a["g"][u] + r["g"][u])
        o = sigmoid(a["o"][u] + r["o"][u])
        c_new.append(f * c[u] + i * g)
        h_new.append(o * math.tanh(c_new[u]))
    return h_new, c_new


def lstm_projected(p: Parameters, x: Vector, h: Vector, c: Vector) -> tuple[Vector, Vector]:
    """H. Sak, A. Senior, F. Beaufays, Long short-term memory based recurrent neural network architectures for large
    vocabulary speech recognition, 2014 (arXiv:1402.1128), equation 12; without peepholes, as in PyTorch.

    c' and m = o tanh(c') as in ``lstm``, (H,), with R of shape (4H, P)
    h' = W_hr m, (P,)
    """
    m, c_new = lstm(p, x, h, c)
    return [dot(row, m) for row in p["weight_hr"]], c_new


def gru(p: Parameters, x: Vector, h: Vector) -> tuple[Vector]:
    """K. Cho et al., Learning phrase representations using RNN encoder-decoder, 2014 (arXiv:1406.1078), with the reset
    gate after the recurrent product, as cuDNN and PyTorch compute it.

    r = sigmoid(W_r x + R_r h + b_r)    z = sigmoid(W_z x + R_z h + b_z)
    n = tanh(W_n x + b_n + r (R_n h + b_hn))
    h' = (1 - z) n + z h
    """
    a, product = inputs(p, x, "rzn"), recurrent(p, h, "rzn")
    b_hn = vector_or_zeros(p, "bias_hn", len(h))
    h_new = []
    for u in range(len(h)):
        r = sigmoid(a["r"][u] + product["r"][u])
        z = sigmoid(a["z"][u] + product["z"][u])
        n = math.tanh(a["n"][u] + r * (product["n"][u] + b_hn[u]))
        h_new.append((1.0 - z) * n + z * h[u])
    return (h_new,)


def gru_reset_before(p: Parameters, x: Vector, h: Vector) -> tuple[Vector]:
    """K. Cho et al., Learning phrase representations using RNN encoder-decoder, 2014 (arXiv:1406.1078), equations 5 to
    8: the reset gate before the recurrent product.

    r = sigmoid(W_r x + R_r h + b_r)    z = sigmoid(W_z x + R_z h + b_z)
    n = tanh(W_n x + R_n (r h) + b_n)
    h' = (1 - z) n + z h
    """
    a, product = inputs(p, x, "rzn"), recurrent(p, h, "rzn", only="rz")
    r = [sigmoid(a["r"][u] + product["r"][u]) for u in range(len(h))]
    reset = recurrent(p, [r[u] * h[u] for u in range(len(h))], "rzn", only="n")
    h_new = []
    for u in range(len(h)):
        z = sigmoid(a["z"][u] + product["z"][u])
        n = math.tanh(a["n"][u] + reset["n"][u])
        h_new.append((1.0 - z) * n + z * h[u])
    return (h_new,)


def mingru(p: Parameters, x: Vector, h: Vector) -> tuple[Vector]:
    """L. Feng et al., Were RNNs all we needed?, 2024 (arXiv:2410.01201), section 3.1.

    z = sigmoid(W_z x + b_z)    n = W_n x + b_n
    h' = (1 - z) h + z n
    """
    a = inputs(p, x, "zn")
    h_new = []
    for u in range(len(h)):
        z = sigmoid(a["z"][u])
        n = a["n"][u]
        h_new.append((1.0 - z) * h[u] + z * n)
    return (h_new,)


def ligru(p: Parameters, x: Vector, h: Vector) -> tuple[Vector]:
    """M. Ravanelli, P. Brakel, M. Omologo, Y. Bengio, Light gated recurrent units for speech recognition, 2018
    (arXiv:1803.10225), the Li-GRU with its batch normalisation folded into W and b.

    z = sigmoid(W_z x + R_z h + b_z)    n = relu(W_n x + R_n h + b_n)
    h' = z h + (1 - z) n
    """
    a, r = inputs(p, x, "zn"), recurrent(p, h, "zn")
    h_new = []
    for u in range(len(h)):
        z = sigmoid(a["z"][u] + r["z"][u])
        n = relu(a["n"][u] + r["n"][u])
        h_new.append(z * h[u] + (1.0 - z) * n)
    return (h_new,)


CELLS: dict[str, Callable[..., tuple[Vector, ...]]] = {
    "rnn_tanh": rnn_tanh,
    "rnn_relu": rnn_relu,
    "lstm": lstm,
    "lstm_peephole": lstm_peephole,
    "lstm_coupled": lstm_coupled,
    "lstm_projected": lstm_projected,
    "gru": gru,
    "gru_reset_before": gru_reset_before,
    "mingru": mingru,
    "ligru": ligru,
}


# --- one step, one direction, a stack ---------------------------------------------------------------------------------


def parameter_shapes(
    cell_name: str, input_size: int, hidden_size: int, proj_size: int = 0, bias: bool = True
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters of one layer and direction."""
    rows = len(GATES[cell_name]) * hidden_size
    shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, input_size)}
    if cell_name != "mingru":
        shapes["weight_hh"] = (rows, proj_size or hidden_size)
    if bias:
        shapes["bias"] = (rows,)
    if cell_name == "gru" and bias:
        shapes["bias_hn"] = (hidden_size,)
    if cell_name == "lstm_peephole":
        shapes.update({f"peephole_{gate}": (hidden_size,) for gate in "ifo"})
    if cell_name == "lstm_projected":
        shapes["weight_hr"] = (proj_size, hidden_size)
    return shapes


def state_sizes(cell_name: str, params: Parameters) -> tuple[int, ...]:
    """The sizes of the states, h before c."""
    hidden = len(params["weight_ih"]) // len(GATES[cell_name])
    output = len(params["weight_hr"]) if cell_name == "lstm_projected" else hidden
    return (output, hidden) if cell_name.startswith("lstm") else (hidden,)


def plain(params: Parameters) -> dict[str, list]:
    """The arrays as nested lists of floats."""
    return {name: np.asarray(value, dtype=np.float64).tolist() for name, value in params.items()}


def step(cell_name: str, params: Parameters, x: Any, states: Sequence[Any]) -> tuple[np.ndarray, ...]:
    """One time step of one row: x (I,), states one vector each -> the new states, the first of which is the output."""
    vectors = [np.asarray(s, dtype=np.float64).tolist() for s in states]
    new = CELLS[cell_name](plain(params), np.asarray(x, dtype=np.float64).tolist(), *vectors)
    return tuple(np.array(s, dtype=np.float64) for s in new)


def scan(
    cell_name: str,
    params: Parameters,
    x: Any,
    states: Sequence[Any] | None = None,
    lengths: Any = None,
    reverse: bool = False,
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """One layer in one direction: x (T, B, I) -> y (T, B, size of h) and the final states, (B, size) each.

    Every row stands alone. A row with length n uses its steps 0 to n - 1, in ``reverse`` from n - 1 down to 0; y is
    zero from step n on, and a length of 0 keeps the initial states. ``states`` None are zeros.
    """
    x = np.asarray(x, dtype=np.float64)
    T, B, _ = x.shape
    sizes = state_sizes(cell_name, params)
    lists = plain(params)
    if states is None:
        states = [np.zeros((B, size)) for size in sizes]
    assert [np.shape(s) for s in states] == [(B, size) for size in sizes], "states have the wrong shapes"
    y = np.zeros((T, B, sizes[0]))
    final = tuple(np.array(s, dtype=np.float64) for s in states)
    for b in range(B):
        n = T if lengths is None else int(lengths[b])
        row: tuple[Vector, ...] = tuple(s[b].tolist() for s in final)
        for t in reversed(range(n)) if reverse else range(n):
            row = CELLS[cell_name](lists, x[t, b].tolist(), *row)
            y[t, b] = row[0]
        for s, values in zip(final, row, strict=True):
            s[b] = values
    return y, final


def layer_parameters(parameters: Parameters, layer: int, reverse: bool = False) -> dict[str, Any]:
    """One layer and direction out of the public names: ``weight_ih_l1_reverse`` -> ``weight_ih``."""
    suffix = f"_l{layer}_reverse" if reverse else f"_l{layer}"
    return {name[: -len(suffix)]: value for name, value in parameters.items() if name.endswith(suffix)}


def stack(
    cell_name: str,
    parameters: Parameters,
    x: Any,
    state: Any = None,
    num_layers: int = 1,
    bidirectional: bool = False,
    lengths: Any = None,
) -> tuple[np.ndarray, Any]:
    """Layers and directions as in PyTorch: x (T, B, I) -> y (T, B, D * size of h) and the final state.

    ``parameters`` has the public names (``weight_ih_l0``, ``bias_l1_reverse``). ``state`` is None, h or (h, c), each
    (L*D, B, size), layer by layer and in each layer forward before reverse; the final state is of the same kind.
    """
    directions = (False, True) if bidirectional else (False,)
    if state is not None:
        state = tuple(state) if cell_name.startswith("lstm") else (state,)
    finals: list[tuple[np.ndarray, ...]] = []
    y = x
    for layer in range(num_layers):
        outputs = []
        for reverse in directions:
            params = layer_parameters(parameters, layer, reverse)
            initial = None if state is None else [np.asarray(s)[len(finals)] for s in state]
            output, final = scan(cell_name, params, y, initial, lengths, reverse)
            outputs.append(output)
            finals.append(final)
        y = np.concatenate(outputs, axis=2)
    result = tuple(np.stack(values) for values in zip(*finals, strict=True))
    return y, (result if cell_name.startswith("lstm") else result[0])


# --- gradients --------------------------------------------------------------------------------------------------------


def finite_differences(f: Callable[[Arrays], float], arrays: Mapping[str, Any], eps: float = 1e-5) -> Arrays:
    """The gradient of the scalar f(arrays) by central differences, one element at a time: name -> gradient.

    ``f`` gets a dict with the names of ``arrays``, float64; ``arrays`` itself is not touched.
    """
    values = {name: np.array(array, dtype=np.float64) for name, array in arrays.items()}
    gradients = {name: np.zeros(array.shape) for name, array in values.items()}
    for name, array in values.items():
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + eps
            above = f(values)
            array[index] = kept - eps
            below = f(values)
            array[index] = kept
            gradients[name][index] = (above - below) / (2.0 * eps)
    return gradients


def directional_difference(
    f: Callable[[Arrays], float], arrays: Mapping[str, Any], directions: Mapping[str, Any], eps: float = 1e-5
) -> float:
    """The derivative of the scalar f(arrays) along ``directions`` (some or all of the names), by central differences.

    Two calls of ``f`` whatever the sizes: a cheap check of a large gradient, sum(gradient * direction).
    """

    def moved(distance: float) -> Arrays:
        result = {name: np.array(array, dtype=np.float64) for name, array in arrays.items()}
        for name, direction in directions.items():
            result[name] += distance * np.asarray(direction)
        return result

    return (f(moved(eps)) - f(moved(-eps))) / (2.0 * eps)
