"""What is fetched ahead: no result shows it.

The stages are those that both compiled backends run. The time loop's own fetching is shown for Numba's; of the
extension's, that its compiler has not left it out.
"""

from __future__ import annotations

import ctypes
import platform
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import COMPILED

import fastrnn
from fastrnn import cells
from fastrnn.backends.contract import Rows
from fastrnn.backends.cython_.c_text import Functions
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.emitter import WHOLE
from fastrnn.backends.tiled.outer import ARGUMENTS, emit_outer
from fastrnn.backends.tiled.program import (
    BACKWARD_STEP,
    FORWARD_STEP,
    INPUT_GRADIENT_STAGE,
    INPUT_STAGE,
    KINDS,
    Program,
)
from fastrnn.backends.tiled.target import Target
from fastrnn.equations import trace
from fastrnn.plan import plan
from fastrnn.reuse import address

FLOAT32 = np.dtype(np.float32)
AVX512 = Target(64, 32, True)


def program_of(name: str) -> Program:
    return Program(plan(trace(getattr(cells, name))), FLOAT32, AVX512)


def fetches(kinds: Sequence[str], body: Callable[..., None]) -> int:
    """How many of them there are in what is emitted."""
    functions = Functions(FLOAT32, AVX512)
    functions.define("emitted", kinds, body)
    return functions.text().count("PREFETCH(")


@pytest.mark.parametrize("name", cells.__all__)
def test_a_step_back_fetches_the_tape_and_dy(name: str) -> None:
    """All that its stages read of the tape, and dy once."""
    program = program_of(name)
    fetched = []
    for stage, tile in zip(program.plan.backward, program.backward, strict=True):
        kept = [program._rows(place) for place in stage.loads.values() if place[0] == "kept"]
        assert set(kept) <= set(tile.fetched)
        fetched += [rows.address for rows in tile.fetched if rows not in kept]
    assert fetched == [f.DY]


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_tanh"])
def test_of_all_stages_those_of_a_step_back_and_of_dx_fetch(name: str) -> None:
    """What the others read has been written just before; for x and y of ragged rows see below."""
    program = program_of(name)
    found = [
        fetches([WHOLE] * 3, lambda emit, arguments, kind=kind: program.emit(emit, kind, *arguments))
        for kind in range(KINDS)
    ]
    assert [kind for kind, count in enumerate(found) if count] == [BACKWARD_STEP, INPUT_GRADIENT_STAGE]


def test_each_tile_of_several_rows_fetches_where_dx_is_written() -> None:
    """Those of the tail, too."""
    functions = Functions(FLOAT32, AVX512)
    emitted = partial(program_of("lstm").emit, kind=INPUT_GRADIENT_STAGE)
    functions.define(
        "emitted", [WHOLE] * 3, lambda emit, rest: emitted(emit, frame=rest[0], linked=rest[1], rows=rest[2])
    )
    tiles = re.findall(r"void ((?:tile|tail)_(\d+)x\w+)\(int64_t a0.*?{\n(.*?)\n}", functions.text(), re.DOTALL)
    assert {name.split("_")[0] for name, *_ in tiles} == {"tile", "tail"}
    assert [name for name, height, tile in tiles if int(height) > 1 and "PREFETCH(" not in tile] == []


def test_weight_gradients_fetch_the_next_tiles_values_and_vectors() -> None:
    """Of a all tiles do. Of b's vectors the first tiles fetch those that are copied next, one each, row by row."""

    def body(emit: Any, arguments: list[Any]) -> None:
        emit_outer(emit, *arguments)

    functions = Functions(FLOAT32, AVX512)
    functions.define("emitted", ARGUMENTS, body)
    text = functions.text()
    (tile,) = re.findall(r"outer_fetching_6x4_\d+\(int64_t a0.*?{\n(.*?)\n}", text, re.DOTALL)
    plain = re.search(r"outer_6x4_\d+\(int64_t a0.*?{\n(.*?)\n}", text, re.DOTALL)
    assert plain is not None
    assert tile.count("PREFETCH(") == 2 * plain.group(1).count("PREFETCH(") > 0
    main = text[text.index("outer_block") : text.rindex("NOINLINE")]
    before_tile = main[: main.index("outer_fetching_6x4")]
    loop, stop = re.findall(r"for \(; (\w+) \+ 6 <= (\w+);", before_tile)[-1]
    (gate,) = re.findall(r"for \(; (\w+) \+ 1 <= ", before_tile)
    # Of as many gates as there are, of so many rows each, the vectors of b behind those of the column 64, in order.
    for gate_rows, low, high, expected in (
        (100, 0, 100, [4, 5, 6, 7]), (100, 40, 90, [4, 5, 6, 7]), (100, 90, 100, [4]), (9, 0, 36, [4, 5, 6, 7]),
        (15, 0, 60, [4, 5, 6, 7]), (11, 0, 33, [4, 5, 6]), (40, 30, 80, [4]), (5, 0, 20, []),
    ):  # fmt: skip
        known = dict.fromkeys([f"a{n}" for n in range(17)], 0) | {"a3": gate_rows, "a10": low, "a11": high, "a16": 64}
        found = []
        for number in range(low // gate_rows, -(-high // gate_rows)):
            values = evaluated(before_tile, known, {gate: number})
            for row in range(values[loop], values[stop] - 5, 6):
                found.append(evaluated(tile[: tile.index("for (")], known | {"a15": row}, {}))
        asked = [(set(range(4, 16)) & {(value // 4 - 64) / 16 for value in each.values()}) for each in found]
        assert [max(vectors) for vectors in asked] == expected


def evaluated(text: str, known: dict[str, int], given: dict[str, int]) -> dict[str, int]:
    """All whole numbers that are defined in some C text, but for those that are given."""
    values: dict[str, Any] = {**known, "INT64_C": int}
    for name, value in re.findall(r"int64_t (\w+) = (.*);", text):
        chosen = re.sub(r"^(\w+) (<|>) (.+) \? (.+) : (.+)$", r"\4 if \1 \2 \3 else \5", value)
        values[name] = given[name] if name in given else eval(chosen.replace(" / ", " // "), {}, values)
    del values["INT64_C"]
    return values


# --- rows of different lengths ----------------------------------------------------------------------------------------

X_AT, Y_AT, WIDE, HIGH = 1 << 20, 1 << 30, 320, 4  # rows of 320 bytes, the first of which begins within a line


def frame_of(rows: Rows, reverse: bool) -> Any:
    """A forward frame of two row steps a chunk and row, x batch first and y time first. It does not hold the rows."""
    frame = np.zeros(f.FIRST_STATE, np.int64)
    frame[f.ORDER : f.STEPS + 1] = rows.table
    frame[f.X], frame[f.X_STEP], frame[f.X_ROW] = X_AT + 32, WIDE, WIDE * rows.steps
    frame[f.Y], frame[f.Y_STEP], frame[f.Y_ROW] = Y_AT + 32, WIDE * rows.batch, WIDE
    frame[f.X_BYTES] = frame[f.Y_BYTES] = WIDE
    frame[f.CHUNK], frame[f.REVERSE] = 2 * rows.batch, reverse
    return frame


def scan_events(monkeypatch: pytest.MonkeyPatch, frame: Any, low: int, high: int, steps: int) -> list[tuple[str, int]]:
    """What the time loop's own Python does: ("input", rows), ("step", rows), ("fetch", address), ("clear", address)."""
    from fastrnn.backends.numba_ import intrinsics, scan

    events: list[tuple[str, int]] = []
    kinds = {INPUT_STAGE: "input", FORWARD_STEP: "step"}

    def array_at(at: int, *sizes: int) -> Any:
        return np.ctypeslib.as_array(ctypes.cast(int(at), ctypes.POINTER(ctypes.c_int64)), tuple(map(int, sizes)))

    for name in ("row_offsets", "chunk_end", "fetch_rows", "fetch_bytes", "clear_ended"):
        function = getattr(scan, name)
        monkeypatch.setattr(scan, name, getattr(function, "py_func", function))
    for name in ("load_states", "store_final", "point_states", "meet"):
        monkeypatch.setattr(scan, name, lambda *arguments: None)
    monkeypatch.setattr(scan, "whole_numbers", array_at)
    monkeypatch.setattr(scan, "whole_table", array_at)
    monkeypatch.setattr(scan, "clear_bytes", lambda at, count: events.append(("clear", int(at))))
    monkeypatch.setattr(intrinsics, "fetch_line", lambda at: events.append(("fetch", int(at))))
    monkeypatch.setattr(scan, "run_stages", lambda *given: events.append((kinds[given[1]], int(given[4]))))
    members = max(1, int(frame[f.TEAM]))  # each has tables of its own
    tables = np.zeros(2 * steps * (high - low) * members, np.int64)
    forward_steps = getattr(scan.forward_steps, "py_func", scan.forward_steps)
    forward_steps(None, address(frame), low, high, 0, steps, steps * (high - low), address(tables))
    return events


def lines_of(frame: Any, array: int, rows: Rows, low: int, high: int, step: int, ended: bool = False) -> set[int]:
    """The cache lines of rows low .. high - 1 at a step: of those that are active, or of ``ended`` ones too."""
    found = set()
    for r in range(low, high):
        active = rows.lengths[r] > step
        if active or ended:
            time = rows.lengths[r] - 1 - step if frame[f.REVERSE] and active else step
            at = int(frame[array] + time * frame[array + 1] + rows.order[r] * frame[array + 2])
            found |= {byte // 64 * 64 for byte in range(at, at + WIDE)}
    return found


@pytest.mark.needs("numba")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("part", [(0, HIGH), (1, 3), (0, 2)])
@pytest.mark.parametrize("lengths", [[5, 9, 3, 7], [9, 3, 9, 5]], ids=str)
def test_ragged_rows_are_fetched_before_they_are_needed(
    monkeypatch: pytest.MonkeyPatch, reverse: bool, part: tuple[int, int], lengths: list[int]
) -> None:
    """Before each step y's rows of the next one, ended ones too, which are cleared then, and x's of the step as far
    ahead as the chunk is long; no others.

    Also where the rows of a part have one length: in the batch they may stand apart.
    """
    rows = Rows.of(9, HIGH, np.array(lengths))
    frame = frame_of(rows, reverse)
    counts = [sum(rows.lengths[r] > s for r in range(*part)) for s in range(9)]
    step, end, fetched = 0, 0, set()
    for kind, value in scan_events(monkeypatch, frame, *part, 9):
        if kind == "input":
            chunk, end = end, end
            while value:
                value, end = value - counts[end], end + 1
        elif kind == "fetch":
            fetched.add(value)
        elif kind == "step":
            assert value == counts[step]
            later, expected = step + end - chunk, set()
            if step + 1 < 9:
                expected |= lines_of(frame, f.Y, rows, *part, step + 1, ended=True)
            if later < 9:
                expected |= lines_of(frame, f.X, rows, *part, later)
            assert fetched == expected
            step, fetched = step + 1, set()
    assert counts[step:] == [0] * (9 - step)


@pytest.mark.needs("numba")
@pytest.mark.parametrize("part", [(0, HIGH), (1, 3)])
def test_rows_of_one_length_are_not_fetched(monkeypatch: pytest.MonkeyPatch, part: tuple[int, int]) -> None:
    """The processor sees by itself that they follow one another."""
    rows = Rows.of(9, HIGH)
    frame = frame_of(rows, False)
    assert {kind for kind, _ in scan_events(monkeypatch, frame, *part, 9)} == {"input", "step"}


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize(
    ("inputs", "hidden", "projected", "dtype", "expected"),
    [
        (64, 63, 0, "float32", (256, 252)),
        (63, 64, 0, "float32", (252, 256)),
        (31, 32, 0, "float64", (248, 256)),
        (100, 96, 0, "float32", (400, 384)),
        (8, 96, 64, "float32", (32, 256)),
    ],
)
def test_short_rows_are_not_worth_it(
    backend: str, inputs: int, hidden: int, projected: int, dtype: str, expected: tuple[int, int]
) -> None:
    """x, y or both, as the pack says: 256 bytes and more are long."""
    layer = fastrnn.LSTM(inputs, hidden, proj_size=projected, dtype=dtype, backend=backend)
    (pack,) = layer._packs()
    found = pack.frame[f.X_BYTES], pack.frame[f.Y_BYTES]
    assert found == expected
    assert [count >= f.LEAST_FETCHED for count in found] == [count >= 256 for count in expected]


@pytest.mark.needs("numba")
def test_short_rows_are_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the frame says, that is."""
    rows = Rows.of(9, 3, np.array([5, 9, 3]))
    frame = frame_of(rows, False)
    frame[f.X_BYTES] = 255
    assert {at // Y_AT for kind, at in scan_events(monkeypatch, frame, 0, 3, 9) if kind == "fetch"} == {1}


@pytest.mark.needs("numba")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("part", [(0, HIGH), (1, 3), (2, 4)])
@pytest.mark.parametrize("lengths", [[5, 9, 3, 7], [5, 0, 3, 4], [4, 4, 4, 4], [0, 0, 0, 0], [9, 9, 9, 9]], ids=str)
def test_each_step_past_a_rows_end_is_cleared_once(
    monkeypatch: pytest.MonkeyPatch, reverse: bool, members: int, part: tuple[int, int], lengths: list[int]
) -> None:
    """By all members of a team together; steps that some row has after the one before, so that they were fetched."""
    rows, cleared = Rows.of(9, HIGH, np.array(lengths)), []
    for member in range(members):
        frame = frame_of(rows, reverse)
        frame[f.TEAM], frame[f.MEMBER] = members, member
        events = scan_events(monkeypatch, frame, *part, rows.longest)
        cleared += [value for kind, value in events if kind == "clear"]
        time = 0
        for kind, value in events:
            time += kind == "step"
            if kind == "clear" and time < max(rows.lengths[slice(*part)]):
                assert (value - Y_AT) // int(frame[f.Y_STEP]) == time
    places = {
        int(frame[f.Y] + time * frame[f.Y_STEP] + rows.order[r] * frame[f.Y_ROW])
        for r in range(*part)
        for time in range(rows.lengths[r], 9)
    }
    assert sorted(cleared) == sorted(places)


@pytest.mark.needs("numba")
def test_one_memory_for_every_step_is_not_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row's last step stays there."""
    rows = Rows.of(9, 3, np.array([5, 9, 0]))
    frame = frame_of(rows, False)
    frame[f.Y_STEP] = 0
    assert "clear" not in {kind for kind, _ in scan_events(monkeypatch, frame, 0, 3, 9)}


@pytest.mark.needs("numba")
def test_to_fetch_is_an_instruction() -> None:
    """Of data that is to be read, into the second cache."""
    from numba import njit

    from fastrnn.backends.numba_.intrinsics import fetch_bytes

    @njit
    def fetching(at, count):  # type: ignore[no-untyped-def]
        fetch_bytes(at, count)

    fetching(0, 0)
    (text,) = fetching.inspect_llvm().values()
    assert re.search(r"call void @llvm\.prefetch\.p0\(.*, i32 0, i32 2, i32 1\)", text)


@pytest.mark.needs("cython")
@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="reads the machine code of x86")
def test_the_extension_fetches() -> None:
    """Into the second cache, which nothing else in it does: PREFETCHT1 [register], where GCC had left no call of it."""
    import fastrnn_ext._scan as extension

    assert re.search(rb"\x0f\x18[\x10-\x17\x50-\x57\x90-\x97]", Path(extension.__file__).read_bytes(), re.DOTALL)
