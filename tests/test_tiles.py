"""Which tiles there are, and which of them a processor leaves out: no result shows it."""

from __future__ import annotations

import itertools
import platform
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
import odd_cells
import pytest
from cases import COMPILED, DTYPES, assert_same_bits
from conformance import as_tuple, backend_of, make_layer

from fastrnn import cells
from fastrnn.backends.cython_.c_text import Emitter, Functions
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.emitter import WHOLE
from fastrnn.backends.tiled.loops import Range, StageTiles, Tiles, _range, _rows_of_block, _share, tile_shapes
from fastrnn.backends.tiled.program import (
    BACKWARD_STEP,
    FINISH_STEP,
    FORWARD_STEP,
    INPUT_GRADIENT_STAGE,
    INPUT_STAGE,
    Program,
)
from fastrnn.backends.tiled.stage import Rows, TileProduct, TileStage
from fastrnn.backends.tiled.tail import tail_heights, tail_vectors
from fastrnn.backends.tiled.target import Target
from fastrnn.equations import trace
from fastrnn.plan import plan

AVX512, AVX2, NEON, SSE2 = Target(64, 32, True), Target(32, 16, True), Target(16, 32, True), Target(16, 16, False)
INFO = Path("/proc/cpuinfo")


@pytest.mark.parametrize("target", [AVX512, AVX2, NEON, SSE2])
def test_sums_fit_into_the_registers(target: Target) -> None:
    room = {32: 24, 16: 12}[target.registers]
    for vectors in range(1, 9):
        heights = target.heights(vectors)
        assert heights[-1] == 1
        assert sorted(heights, reverse=True) == list(heights)
        assert heights[0] == 1 or heights[0] * vectors <= room
    for columns in itertools.product(range(1, 9), range(9)):
        columns = tuple(filter(None, columns))
        heights = target.tile_heights(columns)
        assert heights[-1] == 1
        assert sorted(set(heights), reverse=True) == list(heights)
        for height, count in itertools.product(heights, columns):
            parts = target.parts(height, count, 1)
            assert [column for part in parts for column in part] == list(range(count))
            assert not any(len(part) % target.panel(count) for part in parts)
            assert height == 1 or max(map(len, parts)) * height <= room


@pytest.mark.parametrize("target", [AVX512, NEON])
def test_many_registers_take_all_columns_at_once(target: Target) -> None:
    for columns in range(1, 9):
        assert target.panel(columns) == columns
        assert target.tile_heights((columns,)) == target.heights(columns)
        assert {len(target.parts(height, columns, 1)) for height in target.heights(columns)} == {1}


def test_few_registers_take_two_columns_by_six_rows() -> None:
    """An odd number of them stays together; few rows take more of them, as many as there is room for."""
    assert [AVX2.panel(columns) for columns in range(1, 9)] == [1, 2, 3, 2, 5, 2, 7, 2]
    assert AVX2.tile_heights((4,)) == (6, 4, 3, 2, 1)
    assert [len(AVX2.parts(height, 4, 1)) for height in (6, 4, 3, 2, 1)] == [2, 2, 1, 1, 1]
    assert AVX2.tile_heights((6,)) == (6, 4, 3, 2, 1)
    assert AVX2.tile_heights((3,)) == AVX2.heights(3) == (4, 3, 2, 1)
    assert SSE2.tile_heights((4,)) == (4, 2, 1)


@pytest.mark.parametrize("rows", range(1, 40))
@pytest.mark.parametrize(("target", "columns", "halves"), [
    (AVX2, 4, 0), (AVX2, 3, 0), (AVX2, 2, 0), (AVX512, 4, 0), (AVX512, 4, 1), (AVX512, 3, 0), (AVX512, 2, 0),
])  # fmt: skip
def test_no_row_is_left_alone(target: Target, columns: int, halves: int, rows: int) -> None:
    """Seven rows are four and three, and five are three and two."""
    heights = cut(target, columns, rows, halves)
    tallest = 4 if halves else target.tile_heights((columns,))[0]
    assert sum(heights) == rows
    assert rows == 1 or 1 not in heights
    assert heights == sorted(heights, reverse=True)
    assert len(heights) <= -(-rows // tallest) + 1 + (tallest == 8)


def test_the_tallest_come_first() -> None:
    assert cut(AVX2, 3, 7) == [4, 3]
    assert cut(AVX512, 4, 19) == [6, 6, 4, 3]
    assert cut(AVX512, 4, 19, halves=1) == [4, 4, 4, 4, 3]


@pytest.mark.parametrize("columns", range(1, 9))
@pytest.mark.parametrize("target", [AVX512, AVX2, NEON, SSE2])
def test_each_row_is_taken_once(target: Target, columns: int) -> None:
    """Of a block on whatever processor, and of a tail with the tiles of a block for what is left."""
    of_tail = [(8, 4, 3, 2, 1), (8, 4, 2, 1), (4, 2, 1), (8, 4, 1)]
    for heights, halves, rows in itertools.product([None, *of_tail], (0, 1), range(1, 30)):
        assert sum(cut(target, columns, rows, halves, heights)) == rows


def cut(target: Target, columns: int, rows: int, halves: int = 0, heights: tuple[int, ...] | None = None) -> list[int]:
    """How many of a block's rows are taken at once: what is emitted, as Python.

    ``halves`` says whether the processor takes vectors in two halves; ``heights`` are other tiles than a block's.
    """
    emit, taken = Emitter(Functions(np.dtype(np.float32), target)), []
    tiles = {
        (height, 1): lambda *_, height=height: emit._line(f"taken.append({height})")
        for height in heights or target.tile_heights((columns,))
    }
    of_block = Tiles(tiles, 0 if heights else target.left_out(columns))
    _rows_of_block(emit, of_block, "0", Range("0", str(rows), "1"), "0")
    exec(python_of(emit.lines), {"taken": taken, "read_whole": lambda _: halves})
    return taken


def python_of(lines: list[str]) -> CodeType:
    """C text as Python: statements are alike but for these, and loops take a step at their end."""
    patterns = [
        (r"INT64_C\((\d+)\)", r"\1"),
        (r"(?:const )?int64_t ", ""),
        (r"([^=]*) = (.*) \? (.*) : (.*);", r"\1 = \3 if \2 else \4"),
        (r"for \(; (.*); .*\) {", r"while \1:"),
        (r" {$", ":"),
        (r" / ", " // "),
        (r";$", ""),
    ]
    found, ends = [], []
    for line in lines:
        if line.endswith("{"):
            ends.append(re.sub(r".*for \(.*; (.*)\) {", r"\1", line) if "for (" in line else "pass")
        text = line.replace("}", "    " + ends.pop()) if line.endswith("}") else line
        for pattern, python in patterns:
            text = re.sub(pattern, python, text)
        found.append(text)
    return compile(textwrap.dedent("\n".join(found)), "emitted", "exec")


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize(("sums", "vectors"), [(1, 2), (2, 2), (3, 1), (4, 1), (7, 1), (1, 3), (1, 4)])
def test_a_tail_takes_fewer_vectors(sums: int, vectors: int, lanes: int) -> None:
    """Of sums than a whole block where that is one vector of units, else of units; more units than that are a block."""
    stage = stage_of(sums, vectors)
    of_block = vectors * lanes
    for units in range(1, 3 * of_block + 1):
        left = units % of_block
        fewer = tail_vectors(sums, left, lanes) < sums if vectors == 1 else left <= of_block - lanes
        is_tail = left > 0 and fewer
        assert stage.blocks_before_tail(units, lanes) == units // of_block + (left > 0 and not is_tail)


@pytest.mark.parametrize("team", [0, 1, 2, 3, 8])
@pytest.mark.parametrize("target", [AVX512, AVX2, SSE2])
@pytest.mark.parametrize(("sums", "vectors"), [(1, 2), (2, 2), (3, 1), (4, 1), (7, 1), (1, 3), (1, 4)])
def test_the_members_of_a_team_share_a_stage(sums: int, vectors: int, target: Target, team: int) -> None:
    """Each row of each block is taken once, with the tail's tiles where weights are packed for them. Of full blocks
    nobody takes more than if each were one member's, and two members take as many rows each, or one more."""
    stage, members = stage_of(sums, vectors), max(team, 1)
    code, lanes = share_of(stage, target), target.lanes(np.dtype(np.float32))
    for blocks, more, rows in itertools.product((0, 1, 5), (1, lanes + 1, vectors * lanes), (1, 2, 5, 11)):
        units = blocks * vectors * lanes + more
        whole, count = stage.blocks_before_tail(units, lanes), -(-units // (vectors * lanes))
        taken = [taken_by(code, units, rows, team, member) for member in range(members)]
        everything = [
            (tile == "tail", row + r, block + b)
            for of_member in taken
            for tile, height, span, row, block in of_member
            for r in range(height)
            for b in range(span)
        ]
        tail = range(whole, count) if rows > 1 or vectors == 2 else ()
        expected = [(b in tail, row, b) for row in range(7, 7 + rows) for b in range(count)]
        assert sorted(everything) == sorted(expected)
        if rows > 1:
            work = [sum(height for tile, height, *_ in of_member if tile == "whole") for of_member in taken]
            assert max(work) <= -(-whole // members) * rows
            assert max(work) - min(work) <= 1 or members > 2


def test_rows_of_a_tail_are_cut_where_its_tiles_end() -> None:
    stage = stage_of(4, 1)
    code = share_of(stage, AVX512)
    heights = {
        rows: [[height for tile, height, *_ in taken_by(code, 100, rows, 2, member) if tile == "tail"]
               for member in (0, 1)] for rows in (3, 4, 6, 8, 9, 16)
    }  # fmt: skip
    assert heights == {3: [[3], []], 4: [[4], []], 6: [[4], [2]], 8: [[4], [4]], 9: [[4], [3, 2]], 16: [[8], [8]]}


class Undivided(int):
    """A number that nothing is divided by."""

    def __rfloordiv__(self, other: object) -> int:
        raise AssertionError("a thread by itself has divided by how many share")


def test_a_thread_by_itself_does_not_divide() -> None:
    code = share_of(stage_of(4, 1), AVX512)
    for team, rows in itertools.product((0, 1), (1, 5)):
        assert taken_by(code, 100, rows, Undivided(team), 0)


def share_of(stage: TileStage, target: Target) -> CodeType:
    """What is emitted around the tiles of a stage, which note in ``taken`` that they are called."""
    emit = Emitter(Functions(np.dtype(np.float32), target))

    def noting(tile: str, shapes: Iterable[tuple[int, int]]) -> Tiles:
        def made(shape: tuple[int, int]) -> Any:
            return lambda emit, _, row, block, __: emit._line(f"taken.append({(tile, *shape)} + ({row}, {block}))")

        return Tiles({shape: made(shape) for shape in shapes})

    shapes = tile_shapes(target, stage)
    few = [(1, 1)] if stage.vectors == 2 else [(height, 1) for height in (3, 2, 1) if (height, 1) in shapes]
    whole, tail = noting("whole", shapes), noting("tail", [*((h, 1) for h in tail_heights(target, stage)), *few])
    tiles = StageTiles(whole, tail, tail if stage.vectors == 2 else whole)
    _range(emit, _share(emit, stage, "0"), tiles, "0", Range("7", "(7 + rows)", "1"))
    return python_of(emit.lines)


def taken_by(code: CodeType, units: int, rows: int, team: int, member: int) -> list[tuple[str, int, int, int, int]]:
    """(whole or tail, rows, blocks, first row, first block): the tiles that a member takes."""
    taken: list[tuple[str, int, int, int, int]] = []
    fields = {8 * f.HIDDEN_SIZE: units, 8 * f.TEAM: team, 8 * f.MEMBER: member}
    exec(code, {"read_whole": fields.get, "rows": rows, "taken": taken})
    return taken


def stage_of(sums: int, vectors: int) -> TileStage:
    product = TileProduct(Rows(f.X), f.INPUT, sums, f.INPUT_WEIGHTS, (None,) * sums)
    return TileStage((product,), vectors, f.HIDDEN_SIZE, lambda *_: None)


SOME_CELLS = ("lstm", "gru", "rnn_tanh", "ligru", "gru_reset_before", "lstm_peephole", "lstm_projected")
UNITS = [
    ("float32", units) for units in (*range(1, 6), *range(7, 10), 11, 12, 13, *range(15, 22, 2), 24, 31, 35, 69, 73)
]
UNITS += [("float64", units) for units in (1, 2, 3, 5, 7, 9, 11, 15, 67)]


@pytest.mark.parametrize(("dtype", "units"), UNITS)
@pytest.mark.parametrize("cell", SOME_CELLS)
@pytest.mark.parametrize("backend", COMPILED)
def test_a_tail_has_the_bits_of_a_block(backend: str, cell: str, dtype: str, units: int) -> None:
    """Fifteen rows take its tiles of all heights, and a row alone none of them; the more units, the more chains."""
    check_tail(make_layer(cell, units, units, backend=backend, dtype=dtype, **projected(cell, units)))


@pytest.mark.needs("numba")
@pytest.mark.parametrize("units", [3, 5, 7, 14, 21, 31, 69])
@pytest.mark.parametrize("cell", odd_cells.CELLS, ids=lambda cell: cell.__name__)
def test_a_tail_of_an_odd_cell(cell: Any, units: int) -> None:
    check_tail(make_layer(cell, units, units, backend="numba", **projected(cell.__name__, units)))


def projected(cell: str, units: int) -> dict[str, int]:
    return {"proj_size": max(1, units - 1)} if "projected" in cell else {}


def check_tail(layer: Any) -> None:
    """Rows have the same bits alone; before the first step all states are zero."""
    rng, lengths = np.random.default_rng(layer.hidden_size), [3, 2] * 7 + [3]
    x = rng.standard_normal((3, len(lengths), layer.input_size)).astype(layer.dtype)
    y, state, tape = layer.record(x, lengths=lengths)
    dy = rng.standard_normal(y.shape).astype(layer.dtype)
    found = layer.backward(tape, dy)
    for row, length in enumerate(lengths):
        one, last, tape = layer.record(np.ascontiguousarray(x[:length, row : row + 1]))
        mine = layer.backward(tape, np.ascontiguousarray(dy[:length, row : row + 1]))
        assert_same_bits(one[:, 0], y[:length, row])
        assert_same_bits(mine.x[:, 0], found.x[:length, row])
        pairs = [(last, state), (mine.state, found.state)]
        for alone, together in (
            pair for ones, all_rows in pairs for pair in zip(as_tuple(ones), as_tuple(all_rows), strict=True)
        ):
            assert_same_bits(alone[:, 0], together[:, row])


@pytest.mark.needs("numba")
@pytest.mark.parametrize("units", range(1, 40))
@pytest.mark.parametrize("cell", [cells.rnn_tanh, cells.ligru, cells.gru, cells.lstm, odd_cells.six_gates])
def test_rows_of_input_products_begin_where_vectors_may(cell: Any, units: int) -> None:
    """Each is as long as what is written of it and what is read: gates in whole vectors."""
    pack: Any = make_layer(cell, 3, units, backend="numba")._packs()[0]
    gates, lanes, stride = pack.form.program.gates, pack.form.program.lanes, pack.frame[f.PROJECTED_STRIDE]
    assert stride % (4 * lanes) == 0
    assert stride >= 4 * ((gates - 1) * units + -(-units // lanes) * lanes)
    assert (
        stride
        >= 4 * -(-gates * units // (pack.form.program.input.vectors * lanes)) * pack.form.program.input.vectors * lanes
    )


@pytest.mark.needs("numba")
@pytest.mark.parametrize(("kernel", "kinds"), [
    ("forward", (INPUT_STAGE, FORWARD_STEP)), ("backward", (BACKWARD_STEP, FINISH_STEP, INPUT_GRADIENT_STAGE)),
])  # fmt: skip
def test_each_tile_is_compiled_once(kernel: str, kinds: tuple[int, ...]) -> None:
    """Numba optimises and translates a function anew in each that calls it; no result shows how often."""
    from numba import njit

    from fastrnn.backends.numba_ import scan
    from fastrnn.backends.numba_.native import SCAN_ARGUMENTS, NumbaNative
    from fastrnn.backends.numba_.types import type_of

    program = NumbaNative().program(plan(trace(cells.lstm)), np.dtype(np.float32))
    stages = [stage for kind in kinds for stage in program.stages(kind)]
    tiles = sum(len(tile_shapes(program.target, stage)) + (stage.vectors == 2) for stage in stages)
    tails = sum(len(tail_heights(program.target, stage)) for stage in stages)
    epilogues = sum(stage.long for stage in stages)
    dispatcher = njit(nogil=True, error_model="numpy")(getattr(scan, kernel).py_func)
    dispatcher.compile((type_of(program), *SCAN_ARGUMENTS))
    (compiled,) = dispatcher.overloads.values()
    defined = re.findall(r"^define .*@(tile|tail|epilogue)_", compiled.library.get_llvm_str(), re.MULTILINE)
    assert [defined.count(name) for name in ("tile", "tail", "epilogue")] == [tiles, tails, epilogues]
    assert not any("@tile_" in library.get_llvm_str() for library in compiled.library._linking_libraries)


def test_functions_alike_but_for_some_numbers_are_one() -> None:
    """Each call hands over its own, in the order in which they were asked for."""
    functions = Functions(np.dtype(np.float32), AVX2)
    emit = Emitter(functions)
    for factor, term in ((3, 5), (7, 3)):

        def body(inner: Any, arguments: list[Any], factor: int = factor, term: int = term) -> None:
            inner.prefetch(inner.sum(inner.times(arguments[0], inner.varying(factor)), inner.varying(term)))

        emit.function("tile", [WHOLE], body)(emit, "a")
    assert emit.lines == [f"    tile_0(a, INT64_C({factor}), INT64_C({term}));" for factor, term in ((3, 5), (7, 3))]
    assert functions.text().count("tile_0(int64_t a0, int64_t n1, int64_t n3)") == 1


def test_heights_that_are_left_out() -> None:
    """Those of more than sixteen sums, where there is one of just so many."""
    assert [AVX512.left_out(vectors) for vectors in range(1, 9)] == [0, 0, 0, 6, 0, 0, 0, 3]
    assert not any(target.left_out(vectors) for target in (AVX2, NEON, SSE2) for vectors in range(1, 9))


@pytest.mark.parametrize("kind", [INPUT_STAGE, FORWARD_STEP])
def test_what_is_emitted_leaves_out_the_tallest_tile(kind: int) -> None:
    """Where the frame says so its loop ends before the first row; those of the other heights do not look there."""
    program = Program(plan(trace(cells.lstm)), np.dtype(np.float32), AVX512)
    functions = Functions(np.dtype(np.float32), AVX512)
    functions.define("emitted", [WHOLE] * 3, lambda emit, arguments: program.emit(emit, kind, *arguments))
    text = functions.text()
    loop = r"int64_t (i\d+) = (\w+);\n *for \(; \1 \+ \d <= (\w+); \1 \+= \d\) {\n *tile_(\d)x4x1"
    found = re.findall(loop, text)
    begin = [height for *_, height in found].index("6")
    _, starts, (tall, *others), heights = zip(*found[begin : begin + 5], strict=True)
    assert heights == ("6", "4", "3", "2", "1")
    halves, first, last = re.search(rf"{tall} = \((\w+) != INT64_C\(0\)\) \? (\S+) : (\w+);", text).groups()  # type: ignore[union-attr]
    assert first == starts[0]
    stop = others[1]
    assert last != stop  # no row is left alone
    assert others[1:] == [stop] * 3
    assert text.count(f"({halves} != ") == 1
    place = re.search(rf"{halves} = read_whole\((\w+)\);", text).group(1)  # type: ignore[union-attr]
    assert re.search(rf"{place} = a0 \+ INT64_C\({8 * f.HALVES}\);", text)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", ["lstm", "lstm_peephole", "gru_reset_before", "ligru"])
@pytest.mark.parametrize("backend", COMPILED)
def test_both_ways_have_the_same_bits(backend: str, cell: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirteen rows: tiles of six, four and three, or without those of six. K is more than one chain."""
    rng = np.random.default_rng(5)
    x, dy = (rng.standard_normal((3, 13, width)).astype(dtype) for width in (70, 67))
    found = []
    for halves in (False, True):
        monkeypatch.setattr(backend_of(backend).native, "halves", halves)
        layer = make_layer(cell, 70, 67, backend=backend, dtype=dtype)
        pack: Any = layer._packs()[0]
        assert [frame[f.HALVES] for frame in (pack.frame, pack.training_frame)] == [halves] * 2
        y, state, tape = layer.record(x)
        gradients = layer.backward(tape, dy)
        found.append([y, *state, gradients.x, *gradients.parameters.values()])
    for one, other in zip(*found, strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.skipif(not INFO.exists() or platform.machine() != "x86_64", reason="Linux describes no such processor")
def test_only_a_zen_4_takes_vectors_in_halves(backend: str) -> None:
    """As Linux describes the processor: AMD's family 25 with AVX-512."""
    described = dict(re.findall(r"^(vendor_id|cpu family|flags)\s*: (.*)$", INFO.read_text(), re.M))
    family = described["vendor_id"], described["cpu family"]
    expected = family == ("AuthenticAMD", "25") and "avx512f" in described["flags"].split()
    assert backend_of(backend).native.halves == expected


@pytest.mark.needs("numba")
@pytest.mark.parametrize(("host", "wide", "expected"), [
    ("znver3", False, False), ("znver4", True, True), ("znver4", False, False), ("znver5", True, False),
])  # fmt: skip
def test_numba_asks_which_processor_it_is(
    host: str, wide: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastrnn.backends.numba_ import target

    monkeypatch.setattr(target.llvm, "get_host_cpu_name", lambda: host)
    monkeypatch.setattr(target.llvm, "get_host_cpu_features", lambda: {"avx512f": wide})
    assert target.halves() is expected
