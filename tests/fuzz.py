"""Random calls of the public surface: ``python -X faulthandler -W error fuzz.py BACKEND EXAMPLES``.

Arrays of any form, shape and type, right ones and wrong ones, go to every call. Each returns what it should, which the
NumPy backend confirms, or raises a TypeError or ValueError whose message begins with an argument's name. Anything else,
a warning included, is a failure; whoever starts this in a process of its own sees a crash, too.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from typing import Any

import numpy as np
from cases import assert_close
from conformance import as_tuple, make_layer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastrnn

NAMES = re.compile(r"^(x|state|lengths|sequence|checkpoint_every|tape|dy|dstate|out|values|batch_size)\b")
TYPES = ("f4", "f8", ">f4", ">f8", "f2", "g", "i1", "u2", ">i4", "i8", "u8", "?")
WRONG_TYPES = ("c8", "O", "S3", "U2", "M8[s]", "m8[s]", "f4,f4")
KINDS: dict[str, dict[str, Any]] = {
    "lstm": {"num_layers": 2},
    "gru": {"bidirectional": True, "batch_first": True},
    "lstm_projected": {"proj_size": 2, "dtype": "float64"},
    "rnn_tanh": {"batch_first": True},
}
I, H = 3, 4  # noqa: E741
rarely = st.integers(0, 7).map(lambda n: n == 0)
OBJECTS = st.sampled_from(
    [None, "x", b"ab", 1.5, 3, True, (), [], {}, [[1.0], [1.0, 2.0]], object(), float("nan"), {"h": 1}, 2**70, [[]]]
)


@lru_cache
def layer_of(kind: str, backend: str) -> fastrnn.Recurrent:
    """One layer for each kind."""
    return make_layer(kind, I, H, backend=backend, **KINDS[kind])


def filled(draw: st.DrawFn, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array of some type: usual numbers, or all that a type has."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    kind = np.dtype(dtype)
    if kind.kind not in "fiub":
        return np.zeros(shape, kind)
    values = np.asarray(rng.normal(size=shape) * 3)
    if draw(rarely) and values.size:
        values.flat[rng.integers(values.size)] = draw(
            st.sampled_from([np.nan, np.inf, -np.inf, 3e38, 1e300, 1e-310, -1e-42])
        )
    if kind.kind == "f":
        with np.errstate(all="ignore"):
            return np.asarray(values.astype(kind))
    return np.asarray(np.abs(np.nan_to_num(values, posinf=1, neginf=1)).clip(0, 100)).astype(kind)


def laid_out(draw: st.DrawFn, array: np.ndarray) -> Any:
    """The same values in another layout, or as something that is no array."""
    way = draw(
        st.sampled_from(("c", "fortran", "backward", "gaps", "unaligned", "read-only", "zero", "list", "memory"))
    )
    if way == "fortran":
        return np.asfortranarray(array)
    if way == "backward" and array.ndim:
        axis = draw(st.integers(0, array.ndim - 1))
        return np.flip(np.flip(array, axis).copy(), axis)
    if way == "gaps" and array.ndim:
        wide = np.zeros(tuple(2 * n for n in array.shape), array.dtype)
        view = wide[tuple(slice(None, None, 2) for _ in array.shape)]
        view[...] = array
        return view
    if way == "unaligned":
        raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
        if array.dtype.hasobject:
            return array
        moved = np.ndarray(array.shape, array.dtype, raw.data)
        moved[...] = array
        return moved
    if way == "read-only":
        array = np.array(array)
        array.flags.writeable = False
    if way == "zero" and array.size:
        return np.broadcast_to(array[:1] if array.ndim else array, array.shape)
    if way == "list":
        return array.tolist()
    if way == "memory" and array.dtype.kind in "fiu" and array.dtype.isnative and array.ndim:
        return memoryview(np.ascontiguousarray(array))
    return array


@st.composite
def arrays(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    """Mostly of a shape, sometimes another, sometimes no array."""
    if draw(rarely) and draw(rarely):
        return draw(OBJECTS)
    if draw(rarely) and draw(rarely):
        change = draw(st.sampled_from(("axis", "drop", "size", "empty")))
        at = draw(st.integers(0, max(0, len(shape) - 1)))
        shape = {
            "axis": (*shape[:at], 1, *shape[at:]),
            "drop": (*shape[:at], *shape[at + 1 :]),
            "size": (*shape[:at], draw(st.integers(0, 9)), *shape[at + 1 :]),
            "empty": (*shape[:at], 0, *shape[at + 1 :]),
        }[change]
    dtype = draw(st.sampled_from(WRONG_TYPES if draw(rarely) and draw(rarely) else TYPES))
    return laid_out(draw, filled(draw, shape, dtype))


@st.composite
def lengths_of(draw: st.DrawFn, steps: int, batch: int) -> Any:
    """Mostly lengths, sometimes too long, negative, of another type or number."""
    if draw(rarely):
        return draw(OBJECTS)
    low, high = (-2, steps + 2) if draw(rarely) else (0, steps)
    count = batch + (draw(st.integers(-1, 1)) if draw(rarely) else 0)
    values = draw(st.lists(st.integers(low, high), min_size=max(count, 0), max_size=max(count, 0)))
    dtype = draw(st.sampled_from(("i8", "i4", ">i2", "u1", "u8", "f4", "?", "O")))
    with np.errstate(all="ignore"):
        return laid_out(draw, np.array(values, "i8").astype(dtype))


@st.composite
def states_of(draw: st.DrawFn, layer: fastrnn.Recurrent, batch: int, batched: bool) -> Any:
    """None, or states in their form, or in a wrong one."""
    if draw(st.booleans()):
        return None
    widths, count = layer._states.widths, layer._states.count
    found = [draw(arrays((count, batch, width) if batched else (count, width))) for width in widths]
    if draw(rarely):
        found = found[:-1] if draw(st.booleans()) else [*found, found[0]]
    if len(found) == 1:
        return found[0] if not draw(rarely) else found
    return list(found) if draw(st.booleans()) else tuple(found)


@st.composite
def outs(draw: st.DrawFn, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """None, or where to write, right or wrong."""
    if draw(st.booleans()):
        return None
    if draw(st.booleans()):
        return np.zeros(tuple(2 * n for n in shape), dtype)[tuple(slice(n) for n in shape)]
    return draw(arrays(shape))


def outcome(call: Any) -> Any:
    """What a call returns, or the error that it is allowed to raise."""
    try:
        return call()
    except (TypeError, ValueError) as error:
        if not NAMES.match(str(error)):
            raise RuntimeError(f"no argument is named: {error}") from error
        return f"{type(error).__name__}: {error}"


def flat(value: Any) -> list[Any]:
    """The arrays of an outcome."""
    if isinstance(value, (tuple, list)):
        return [array for entry in value for array in flat(entry)]
    if isinstance(value, dict):
        return flat(list(value.values()))
    return [value]


def tame(*values: Any) -> bool:
    """Whether two backends have to agree: no infinities, no NaN, nothing near overflow."""
    for value in flat(values):
        if value is None or isinstance(value, (str, bytes)):
            continue
        with np.errstate(all="ignore"):
            found = np.asarray(value)
            if found.dtype.kind in "fiu" and not np.all(np.abs(found.astype("f8")) < 1e3):
                return False
    return True


def agree(one: Any, other: Any, dtype: str, values: Any) -> None:
    """The outcomes of two backends."""
    if isinstance(one, str) or isinstance(other, str):
        assert one == other
        return
    for a, b in zip(flat(one), flat(other), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype == np.dtype(dtype)
        if tame(values):
            assert_close(a, b, "gradient", dtype)


def sizes(draw: st.DrawFn, layer: fastrnn.Recurrent) -> tuple[int, int, bool, tuple[int, ...]]:
    """T, B, whether there is a batch, and the shape of x."""
    steps, batch, batched = draw(st.integers(0, 5)), draw(st.integers(0, 5)), not draw(rarely)
    batch = batch if batched else 1
    shape = ((batch, steps, I) if layer.batch_first else (steps, batch, I)) if batched else (steps, I)
    return steps, batch, batched, shape


def sequences(draw: st.DrawFn, backend: str) -> None:
    """Calls, record and backward."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    ours, reference = layer_of(kind, backend), layer_of(kind, "numpy")
    steps, batch, batched, shape = sizes(draw, ours)
    x = draw(arrays(shape))
    state = draw(states_of(ours, batch, batched))
    lengths = None if draw(st.booleans()) else draw(lengths_of(steps, batch))
    sequence = draw(OBJECTS) if draw(rarely) else draw(st.booleans())
    every = draw(OBJECTS) if draw(rarely) else draw(st.none() | st.integers(-1, 7))
    called = [outcome(lambda layer=layer: layer(x, state, lengths, sequence)) for layer in (ours, reference)]
    agree(*called, ours.dtype.name, [x, state])
    recorded = [
        outcome(lambda layer=layer: layer.record(x, state, lengths, sequence, every)) for layer in (ours, reference)
    ]
    if isinstance(recorded[0], str) or isinstance(recorded[1], str):
        assert recorded[0] == recorded[1]
        return
    agree(recorded[0][:2], called[1], ours.dtype.name, [x, state])
    dy = None if draw(rarely) else draw(arrays(recorded[0][0].shape))
    dstate = draw(states_of(ours, batch, batched))
    gradients = []
    for layer, (_, _, tape) in zip((ours, reference), recorded, strict=True):
        found = outcome(lambda layer=layer, tape=tape: layer.backward(tape, dy, dstate))
        gradients.append(found if isinstance(found, str) else [found.x, as_tuple(found.state), found.parameters])
    agree(*gradients, ours.dtype.name, [x, state, dy, dstate])


def streams(draw: st.DrawFn, backend: str) -> None:
    """Steps, chunks, states, in any order."""
    kind = draw(st.sampled_from([kind for kind in sorted(KINDS) if not KINDS[kind].get("bidirectional")]))
    both = layer_of(kind, backend), layer_of(kind, "numpy")
    size = draw(OBJECTS) if draw(rarely) else draw(st.integers(1, 4))
    made = [outcome(lambda layer=layer: layer.stream(size)) for layer in both]
    if isinstance(made[0], str):
        assert made[0] == made[1]
        return
    batch, width, seen = made[0].batch_size, both[0]._width, []
    for _ in range(draw(st.integers(1, 4))):
        what = draw(st.sampled_from(("step", "chunk", "reset")))
        if what == "reset":
            given_state = draw(states_of(both[0], batch, True))
            seen.append(given_state)
            results = [outcome(lambda s=s, v=given_state: s.reset(v)) for s in made]
            assert results[0] == results[1]
            continue
        steps = draw(st.integers(0, 4))
        leading = {"step": (batch,), "chunk": (batch, steps) if both[0].batch_first else (steps, batch)}[what]
        if batch == 1 and draw(st.booleans()):
            leading = () if what == "step" else (steps,)
        x, out = draw(arrays((*leading, I))), draw(outs((*leading, width), both[0].dtype))
        seen.append(x)
        results = []
        for stream in made:
            found = outcome(lambda s=stream, x=x, out=out, what=what: getattr(s, what)(x, out))
            results.append(found if isinstance(found, str) else found.copy())
        agree(*results, both[0].dtype.name, seen)
    agree(made[0].state, made[1].state, both[0].dtype.name, seen)


def parameters(draw: st.DrawFn, backend: str) -> None:
    """New values: all that are named change, or none."""
    layer = make_layer("gru", I, H, backend=backend)
    before = {name: value.copy() for name, value in layer.parameters.items()}
    names = draw(st.lists(st.sampled_from([*before, "weight", "", 3]), unique=True, max_size=3))
    values = {name: draw(arrays(before[name].shape if name in before else (2,))) for name in names}
    found = outcome(lambda: layer.set_parameters(values if not draw(rarely) else draw(OBJECTS)))
    if isinstance(found, str):
        for name, value in layer.parameters.items():
            assert np.array_equal(value, before[name])
    else:
        layer(np.zeros((2, 1, I)))


def main(backend: str, examples: int) -> None:
    """All of it, by far the most of it sequences and streams."""
    for target, share in ((sequences, 1.0), (streams, 1.0), (parameters, 0.2)):
        limits = settings(
            max_examples=int(examples * share),
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        limits(given(data=st.data())(fuzzed))(target, backend)


def fuzzed(target: Any, backend: str, data: st.DataObject) -> None:
    """One random call or some."""
    target(data.draw, backend)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
