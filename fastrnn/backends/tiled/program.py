"""A plan as the kernels take it: its stages for the tile, whose epilogues emit the cell's arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.emitter import Emitter
from fastrnn.backends.tiled.frame import Layout, state_field
from fastrnn.backends.tiled.loops import Range, emit_stage
from fastrnn.backends.tiled.stage import Rows, TileProduct, TileStage, View
from fastrnn.backends.tiled.target import Target
from fastrnn.plan import Place, Plan, Product, Stage

WIDTHS = {"H": f.HIDDEN_SIZE, "P": f.PROJ_SIZE}
DY = Rows(f.DY, table=f.DY_OFFSETS)
KINDS = 5  # of stages:
INPUT_STAGE, FORWARD_STEP, BACKWARD_STEP, FINISH_STEP, INPUT_GRADIENT_STAGE = range(KINDS)


def vectors_of(sums: int) -> int:
    """Vectors of units a block: two where a unit has few sums, so that a tile has enough of them."""
    return 2 if sums <= 2 else 1


class Program:
    """One plan for one element type and target: the stages that the tile runs, and the layout of their frame."""

    def __init__(self, plan: Plan, dtype: np.dtype[Any], target: Target) -> None:
        self.plan, self.dtype, self.target = plan, dtype, target
        self.layout = Layout(plan)
        self.gates = len(plan.cell.input_gates)
        self.forward = [self._stage(s) for s in plan.forward]
        self.backward = [self._stage(s, with_dy=True) for s in plan.backward]
        self.finish = [self._stage(s) for s in plan.finish]
        self.input = self._input_stage()
        self.input_gradient = self._input_gradient_stage()
        self.lanes = target.lanes(dtype)

    def links(self, stage: TileStage) -> bool:
        """Whether a backward stage has the products that link a step to the one after it."""
        products = self.plan.backward[self.backward.index(stage)].products
        return any(node.op == "adjoint" for product in products for node in product.results)

    def stages(self, kind: int) -> list[TileStage]:
        """The stages of one kind."""
        return [[self.input], self.forward, self.backward, self.finish, [self.input_gradient]][kind]

    def emit(self, emit: Emitter, kind: int, frame: Any, linked: Any, rows: Any) -> None:
        """The stages of one kind for the first ``rows`` rows.

        Going backward, the first ``linked`` of them have a step after this one, whose products reach this step. A team
        meets after each stage; after the last one of a step forward the time loop sees to that: see `frame.IN_PLACE`.
        """
        zero, with_products = emit.whole(0), emit.flag(True)
        for stage in self.stages(kind):
            ranges = [Range(zero, rows, with_products)]
            if kind == BACKWARD_STEP and self.links(stage):
                ranges = [Range(zero, linked, with_products), Range(linked, rows, emit.flag(False))]
            emit_stage(emit, stage, frame, ranges)
            if kind != FORWARD_STEP or stage is not self.forward[-1]:
                emit.meet(frame)

    def _rows(self, place: Place) -> Rows:
        kind, index = place
        if kind == "input":
            return Rows(f.PROJECTED_INPUT, f.PROJECTED_STRIDE, before=((f.HIDDEN_SIZE, index),))
        if kind == "vector":
            return Rows(f.VECTORS, before=((f.PADDED_H, index),))
        if kind == "state":
            return Rows(state_field(index, f.STATE_IN), state_field(index, f.STATE_STRIDE))
        if kind == "adjoint":
            return Rows(state_field(index, f.ADJOINT), state_field(index, f.ADJOINT_STRIDE))
        hidden, projected = self.layout.column(place)
        before = (f.PADDED_H, hidden), (f.PADDED_P, projected)
        if kind == "kept":
            return Rows(f.KEPT, f.KEPT_STRIDE, before=before)
        return Rows(f.GRADIENT, f.GRADIENT_STRIDE, before=before)

    def _product(self, product: Product) -> TileProduct:
        place = product.rows[0]
        seeds = tuple(None if seed is None else self._rows(seed) for seed in product.seeds)
        if place[0] == "gradient":
            links = product.results[0].op == "adjoint"
            rows = Rows(f.GRADIENT_AFTER if links else f.GRADIENT, f.GRADIENT_STRIDE)
            depth = WIDTHS[self.plan.gradient_widths[place[1]]]
            first = self.layout.segments[id(product)]
            return TileProduct(rows, depth, 1, self.layout.weights[id(product)], seeds, first, len(product.rows))
        operand = self.plan.gradient.operands[product.names[0]]
        depth = WIDTHS[self.plan.cell.width(operand)]
        return TileProduct(self._rows(place), depth, len(product.results), self.layout.weights[id(product)], seeds)

    def _stage(self, stage: Stage, with_dy: bool = False) -> TileStage:
        products = tuple(self._product(p) for p in stage.products)
        vectors = vectors_of(sum(p.sums for p in products))
        epilogue = _Epilogue(self, stage, with_dy)
        return TileStage(products, vectors, WIDTHS[stage.width], epilogue, True, epilogue.reads())

    def _input_stage(self) -> TileStage:
        """All input products as one flat product: ``projected_input = bias + x weights``."""
        seeds = (Rows(f.BIAS),)
        product = TileProduct(Rows(f.X, table=f.X_OFFSETS), f.INPUT, 1, f.INPUT_WEIGHTS, seeds)
        into = Rows(f.PROJECTED_INPUT, f.PROJECTED_STRIDE)

        def store(emit: Emitter, view: View, sums: list[Any]) -> None:
            emit.store(view.at(into), sums[0])

        vectors = self.gates if 2 <= self.gates <= 4 else 2  # as wide as the blocks of the cell's own sums
        return TileStage((product,), vectors, f.FLAT_INPUT, store)

    def _input_gradient_stage(self) -> TileStage:
        """The gradient of x: the gradients of the gates' input products times the transposed weights."""
        rows = Rows(f.GRADIENT_BASE, table=f.GRADIENT_OFFSETS)
        count = len(self.plan.input_columns)
        product = TileProduct(
            rows, f.HIDDEN_SIZE, 1, f.INPUT_GRADIENT_WEIGHTS, (None,), self.layout.input_segments, count
        )
        into = Rows(f.DX, table=f.DX_OFFSETS)

        def store(emit: Emitter, view: View, sums: list[Any]) -> None:
            emit.store_first(view.at(into), sums[0], view.remaining(f.INPUT))

        # Rows of dx may be far apart, and a few vectors of each are written at a time.
        return TileStage((product,), 2, f.INPUT, store, fetched=(into,))


class _Epilogue:
    """What follows a stage's products, for one row and one vector of units: loads, arithmetic, stores."""

    def __init__(self, program: Program, stage: Stage, with_dy: bool) -> None:
        self.program, self.stage, self.with_dy = program, stage, with_dy

    def __call__(self, emit: Emitter, view: View, sums: list[Any]) -> None:
        from fastrnn.backends.tiled.arithmetic import evaluate  # which only a compilation needs

        known: dict[int, Any] = {}
        results = [node for product in self.stage.products for node in product.results]
        for node, total in zip(results, sums, strict=True):
            known[node.number] = self._with_dy(emit, view, total, node.op, node.name)
        for number, place in self.stage.loads.items():
            loaded = emit.load(view.at(self.program._rows(place)))
            known[number] = self._with_dy(emit, view, loaded, place[0], place[1])
        always: list[tuple[Any, Any]] = []
        recorded: list[tuple[Any, Any]] = []
        for node, place in self.stage.stores:
            value = evaluate(emit, node, known)
            later = place[0] == "kept" and place[1] >= self.program.plan.crossing
            (recorded if later else always).append((self._destination(view, place), value))
            if place == ("state", 0):
                emit.store_first(view.at(Rows(f.Y, table=f.Y_OFFSETS)), value, self._remaining(view))
        if recorded:
            with emit.when(emit.differ(view.field(f.RECORD), emit.whole(0))):
                for address, value in recorded:
                    emit.store(address, value)
        for address, value in always:
            emit.store(address, value)

    def reads(self) -> tuple[Rows, ...]:
        """What it reads of the tape, and dy."""
        rows = [self.program._rows(place) for place in self.stage.loads.values() if place[0] == "kept"]
        results = [node for product in self.stage.products for node in product.results]
        adjoints = [(node.op, node.name) for node in results] + list(self.stage.loads.values())
        if self.with_dy and ("adjoint", 0) in adjoints:
            rows.append(DY)
        return tuple(rows)

    def _remaining(self, view: View) -> Any:
        return view.remaining(WIDTHS[self.stage.width])

    def _destination(self, view: View, place: Place) -> Any:
        if place[0] == "state":
            rows = Rows(state_field(place[1], f.STATE_OUT), state_field(place[1], f.STATE_STRIDE))
            return view.at(rows)
        return view.at(self.program._rows(place))

    def _with_dy(self, emit: Emitter, view: View, value: Any, kind: str, index: Any) -> Any:
        """The gradient of the output's state has, besides what the next step hands back, dy of this step."""
        if not self.with_dy or (kind, index) != ("adjoint", 0):
            return value
        dy = emit.load_first(view.at(DY), self._remaining(view))
        return emit.add(value, dy)
