"""Recording and going back in one call each, which compiled code makes ready: the bits of a scan made ready in Python.

What those scans give is checked against the oracles elsewhere.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, CASES, CELLS, COMPILED, DTYPES, assert_close, assert_same_bits, compiled
from conformance import UNTOUCHED, Arrays, Scan, backend_of, draw_call, draw_scan, make_layer, pack_of, run_scan
from sharing import share_everything
from test_checkpoints import gradients

import fastrnn
from fastrnn.backends.contract import Backend
from fastrnn.backends.tiled import backend as tiled
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled import sums
from fastrnn.backends.tiled.form import Form
from fastrnn.backends.tiled.whole import WholeBackward

AT = 1  # the part of the states, of three


def run_whole(backend: Backend, scan: Scan, dtype: str) -> Arrays:
    """What `run_scan` gives with gradients, by `Backend.scan` and `Backend.gradients`."""
    kind = np.dtype(dtype)

    def parts(values: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """Each as the part `AT` of states."""
        made = tuple(np.full((3, *value.shape), UNTOUCHED, kind) for value in values)
        for whole, value in zip(made, values, strict=True):
            whole[AT] = value
        return made

    parameters = {name: value.astype(kind) for name, value in scan.parameters.items()}
    pack = pack_of(backend, scan, parameters)
    rows, reverse, x = scan.rows, scan.case.reverse, scan.x.astype(kind)
    y, dx = np.full(scan.dy.shape, UNTOUCHED, kind), np.full(x.shape, UNTOUCHED, kind)
    final, ends = parts(scan.state), parts(scan.dfinal)
    for whole in final:
        whole[AT] = UNTOUCHED
    tape = backend.tape(pack, rows, x, reverse)
    backend.scan(pack, rows, x, y, parts(scan.state), final, AT, reverse, 1, tape)
    into = {name: np.full(value.shape, UNTOUCHED, kind) for name, value in parameters.items()}
    backend.gradients(tape, scan.dy.astype(kind), ends, dx, AT, tuple(into.values()), 1)
    for whole in (*final, *ends):
        assert (whole[[0, 2]] == UNTOUCHED).all()
    states = {f"final{k}": whole[AT] for k, whole in enumerate(final)}
    return {"y": y, **states, "x": dx, **{f"state{k}": whole[AT] for k, whole in enumerate(ends)}, **into}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_as_made_ready_in_python(backend: str, cell: str, case: Any, dtype: str) -> None:
    """All cells and cases: weights, biases and vectors, kept values and states as factors, reverse, ragged, empty."""
    scan, one = draw_scan(cell, case), backend_of(backend)
    found, expected = run_whole(one, scan, dtype), run_scan(one, scan, dtype, gradients=True)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if one.same_bits:
            assert_same_bits(found[name], value, name)
        else:
            assert_close(found[name], value, "gradient", dtype, name)


def wholly(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Have scans of up to so many rows made ready by compiled code."""
    monkeypatch.setattr(Form, "whole", property(lambda form: _limited(WholeBackward(form), most)))


def _limited(whole: WholeBackward, most: int) -> WholeBackward:
    whole.most_rows = most
    return whole


@pytest.fixture
def made_in_python(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The backward scans that Python has made ready since."""
    made: list[Any] = []
    real = tiled.TiledBackend.backward
    monkeypatch.setattr(tiled.TiledBackend, "backward", lambda *given: (made.append(given), real(*given))[1])
    return made


@compiled
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}], ids=str)
def test_what_little_work_is_made_ready_by(backend: str, options: dict[str, Any], made_in_python: list[Any]) -> None:
    """By compiled code, but for both directions of several threads."""
    layer = make_layer("lstm", 5, 8, backend=backend, **options)
    values = draw_call(layer, 20, 4)
    gradients(layer, values, [20, 3, 0, 9], None)
    assert not made_in_python
    with fastrnn.threads(2):
        gradients(layer, values, None, None)
    assert len(made_in_python) == (4 if layer.bidirectional else 0)


@compiled
@pytest.mark.parametrize("most", [79, 80])
def test_long_scans_are_made_ready_in_python(
    backend: str, most: int, made_in_python: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer("gru", 5, 8, backend=backend)
    values = draw_call(layer, 20, 4)
    wholly(monkeypatch, most)
    gradients(layer, values, None, None)
    assert len(made_in_python) == (most < 80)


def test_how_long_a_whole_scan_is() -> None:
    """Three pieces (`test_backward`), and no more than may go on without a checkpoint, with its way there and back."""
    small, large = (fastrnn.LSTM(*sizes, backend=COMPILED[0])._packs()[0].form for sizes in ((64, 128), (2048, 2048)))
    assert small.whole.most_rows == 3 * 372
    assert large.whole.most_rows == large.most_rows // 3 < 2048


@compiled
@pytest.mark.parametrize("lengths", [None, [7, 0, 5, 7, 1, 6, 7]], ids=str)
@pytest.mark.parametrize("members", [2, 3])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru", "lstm_peephole", "mingru"])
def test_threads_give_the_same_bits(
    backend: str, cell: str, apart: bool, members: int, lengths: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There and back, as a team or with rows of their own; and in the products, of which each has a part."""
    layer = make_layer(cell, 7, 130, backend=backend)
    values = draw_call(layer, 7, 7)
    alone = gradients(layer, values, lengths, None)
    found: list[int] = []
    real = WholeBackward.run

    def counted(*given: Any) -> int:
        joined = real(*given)
        found.append(joined % f.WAITS if given[-1] == apart else 0)
        return joined

    monkeypatch.setattr(WholeBackward, "run", counted)
    end = time.monotonic() + 60
    with share_everything(rows_apart=1 if apart else 100), fastrnn.threads(members):
        while found.count(members) < 4 and time.monotonic() < end:
            for name, value in gradients(layer, values, lengths, None).items():
                assert_same_bits(value, alone[name], name)
    assert found.count(members) >= 4


@pytest.mark.parametrize("members", [1, 2, 3])
@pytest.mark.parametrize("layer", [fastrnn.GRU(64, 128), fastrnn.LSTM(200, 9), fastrnn.LSTM(40, 70)], ids=str)
def test_products_are_cut_for_each_thread(layer: Any, members: int) -> None:
    """Every value of each weight's gradient once, and of the sums of the gates' gradients."""
    pack: Any = type(layer)(layer.input_size, layer.hidden_size, backend=COMPILED[0])._packs()[0]
    shapes = {index: shape for index, shape in enumerate(pack.form.shapes.values()) if len(shape) == 2}
    seen = {weight: np.zeros(shape, int) for weight, shape in shapes.items()}
    seen[-1] = np.zeros((1, pack.form.gradient_stride // 4), int)
    frames, _, products, _ = pack.form.whole.tables(pack.form, members)
    assert len(frames) == len(products)
    for frame, (_, weight, low, high) in zip(frames, products.tolist(), strict=True):
        row, first = divmod(frame.item(f.OUTER_INTO), frame.item(f.OUTER_INTO_STRIDE))
        assert frame[f.OUTER_B] == first  # from its column on of what it multiplies, too
        left = first // 4
        seen[weight][row + low : row + high, left : left + frame.item(f.OUTER_WIDTH)] += 1
    for counts in seen.values():
        assert (counts == 1).all()


@compiled
@pytest.mark.parametrize("members", [2, 3])
@pytest.mark.parametrize("pieces", [False, True])
def test_gates_with_gaps_give_the_same_bits_by_threads(
    backend: str, members: int, pieces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products of few rows and many columns, which threads cut by columns: of the whole scan, and of pieces of time."""
    if pieces:  # too long for one call
        monkeypatch.setattr(WholeBackward, "__init__", _never_whole(WholeBackward.__init__))
    layer = make_layer("lstm", 200, 9, backend=backend)
    values = draw_call(layer, 90, 7)
    alone = gradients(layer, values, None, None)
    cut: list[int] = []
    real = sums.Call.cut
    monkeypatch.setattr(sums.Call, "cut", lambda call, count: cut.append(count) or real(call, count))
    with share_everything(rows_apart=100), fastrnn.threads(members):
        for _ in range(20):
            for name, value in gradients(layer, values, None, None).items():
                assert_same_bits(value, alone[name], name)
    assert members in cut


def _never_whole(real: Any) -> Any:
    def init(self: Any, form: Any) -> None:
        real(self, form)
        self.most_rows = 0

    return init


@compiled
def test_a_pack_that_was_trained_goes_at_once(backend: str) -> None:
    """Nothing of it waits for the collector of garbage, which comes after many steps, each with a pack of its own."""
    layer = make_layer("lstm", 5, 8, backend=backend)
    values = draw_call(layer, 4, 3)
    gradients(layer, values, None, None)
    (pack,) = layer._packs()
    gone = weakref.ref(pack)
    gc.disable()
    try:
        del pack
        layer.set_parameters(dict(layer.parameters))
        layer(values["x"])
        assert gone() is None
    finally:
        gc.enable()


@compiled
def test_others_have_the_interpreter_meanwhile(backend: str, made_in_python: list[Any]) -> None:
    """A thread that counts goes on counting while another one goes back, by compiled code, for some 30 ms each time."""
    layer = fastrnn.LSTM(256, 256, backend=backend)
    (pack,) = layer._packs()
    x = np.zeros((pack.form.whole.most_rows // 32, 32, 256), np.float32)
    _, _, tape = layer.record(x)
    layer.backward(tape, x)
    assert not made_in_python
    counted, done = 0, threading.Event()

    def train() -> None:
        for _ in range(20):
            layer.backward(tape, x)
        done.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)  # nobody is made to give it up
    try:
        thread = threading.Thread(target=train)
        thread.start()
        end = time.monotonic() + 60
        while not done.is_set() and time.monotonic() < end:
            counted += 1
            time.sleep(0.001)
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert counted > 80  # some 600, and 1 if the lock is kept


@compiled
def test_inference_does_not_import_what_training_needs(backend: str) -> None:
    code = f"""
import sys, fastrnn
layer = fastrnn.LSTM(3, 4, backend={backend!r})
layer([[1.0, 2.0, 3.0]]), layer.stream().step([1.0, 2.0, 3.0])
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"fastrnn.backends.tiled.whole", "fastrnn.backends.numba_.gradients"} & set(done.stdout.split())


@compiled
def test_another_number_of_arguments_does_nothing(backend: str) -> None:
    pack = fastrnn.LSTM(3, 4, backend=backend)._packs()[0]
    run, _ = pack.form.whole._made(pack.form, 1)
    assert run() == run(*[None] * 13) == run(*[None] * 15) == 0
