"""Vectors: the few loops of the kernel that are written as vector instructions, for LLVM to fit to the machine.

Numba's own loops over LANES are not made vectors, and its long loops keep sums in memory (measured: 2.5 times the
time). `kernel`'s compiled code on disk holds these: after an edit here alone, touch that file.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LANES = 16  # of a vector
ROWS = 4  # mixed along x at once, so that weights are loaded once for all of them
_INDEX, _WORD, _BYTES = ir.IntType(64), ir.IntType(32), ir.IntType(8).as_pointer()
_written: Any = intrinsic


def _lanes(real: ir.Type) -> ir.VectorType:
    return ir.VectorType(real, LANES)


def _spread(builder: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
    """Return a vector of which each lane is `scalar`."""
    empty = ir.Constant(_lanes(scalar.type), ir.Undefined)
    one = builder.insert_element(empty, scalar, ir.Constant(_WORD, 0))
    return builder.shuffle_vector(one, empty, ir.Constant(ir.VectorType(_WORD, LANES), None))


class _Array:
    """An array argument of an intrinsic: loads and stores of vectors and scalars at an index."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kind: Any, value: ir.Value):
        self._builder, self.size = builder, kind.dtype.bitwidth // 8
        self.dtype: Any = kind.dtype
        self.integral = isinstance(kind.dtype, types.Integer)
        found = context.make_array(kind)(context, builder, value)
        self.data, self.real = found.data, context.get_data_type(kind.dtype)
        self.shape = [builder.extract_value(found.shape, axis) for axis in range(kind.ndim)]

    def pointer(self, index: ir.Value, *, vector: bool) -> ir.Value:
        """Where element `index` stands."""
        place = self._builder.gep(self.data, [index])
        return self._builder.bitcast(place, _lanes(self.real).as_pointer()) if vector else place

    def load(self, index: ir.Value, work: Any, *, vector: bool = True) -> ir.Value:
        """A vector or a scalar from `index` on, as floats of the type `work`."""
        value = self._builder.load(self.pointer(index, vector=vector), align=self.size)
        goal = _real(work) if not vector else _lanes(_real(work))
        if self.integral:
            return (self._builder.sitofp if self.dtype.signed else self._builder.uitofp)(value, goal)
        return value if self.dtype == work else self._builder.fpext(value, goal)

    def store(self, value: ir.Value, index: ir.Value, work: Any) -> None:
        """Store a vector of floats: rounded half to even when the array is of integers."""
        if self.integral:
            wide = self._builder.fptosi(value, ir.VectorType(_WORD, LANES))
            value = self._builder.trunc(wide, _lanes(self.real))
        elif self.dtype != work:
            value = self._builder.fptrunc(value, _lanes(self.real))
        self._builder.store(value, self.pointer(index, vector=True), align=self.size)


def _real(work: Any) -> ir.Type:
    return ir.FloatType() if work == types.float32 else ir.DoubleType()


def _summed(
    builder: ir.IRBuilder,
    count: ir.Value,
    work: Any,
    n_sums: int,
    terms: Callable[[ir.Value], list[tuple[ir.Value, ir.Value]]],
) -> list[ir.Value]:
    """Write a loop over `count` taps (at least one) that adds products to as many sums, which stay in registers.

    Args:
        terms: gives, of a tap, the two factors of each product.
    """
    zero = ir.Constant(_lanes(_real(work)), [0.0] * LANES)
    before, loop, after = builder.block, builder.append_basic_block("taps"), builder.append_basic_block("summed")
    builder.branch(loop)
    builder.position_at_end(loop)
    tap = builder.phi(_INDEX)
    sums = [builder.phi(zero.type) for _ in range(n_sums)]
    fma = _intrinsic(builder, "fma", zero.type, 3)
    added = [builder.call(fma, [*factors, old]) for old, factors in zip(sums, terms(tap), strict=True)]
    following = builder.add(tap, ir.Constant(_INDEX, 1))
    for phi, first, later in zip(
        [tap, *sums], [ir.Constant(_INDEX, 0), *[zero] * n_sums], [following, *added], strict=True
    ):
        phi.add_incoming(first, before)
        phi.add_incoming(later, loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    builder.position_at_end(after)
    return added


def _vectors_of(n_vectors: int, *, flipped: bool = False) -> Any:
    """Return how to write the mixing of `n_vectors` neighbouring vectors out of rows that are `pitch` apart.

    Args:
        flipped: x runs backwards in memory from `first` on.
    """

    def typed(out: Any, at: Any, source: Any, first: Any, pitch: Any, weights: Any, *limits: Any) -> Any:
        signature = types.void(out, types.intp, source, types.intp, types.intp, weights, *limits)

        def codegen(context: Any, builder: ir.IRBuilder, _: Any, args: Any) -> Any:
            named = ((out, args[0]), (source, args[2]), (weights, args[5]))
            target, old, weight = (_Array(context, builder, kind, value) for kind, value in named)
            work, shifts = weights.dtype, [n * LANES for n in range(n_vectors)]

            def terms(tap: ir.Value) -> list[tuple[ir.Value, ir.Value]]:
                share = _spread(builder, weight.load(tap, work, vector=False))
                row = builder.add(args[3], builder.mul(tap, args[4]))
                places = [1 - shift - LANES if flipped else shift for shift in shifts]
                vectors = [old.load(builder.add(row, ir.Constant(_INDEX, place)), work) for place in places]
                return [(share, _reversed(builder, v) if flipped else v) for v in vectors]

            for shift, total in zip(shifts, _summed(builder, weight.shape[0], work, n_vectors, terms), strict=True):
                if limits:
                    total = _clipped(builder, total, *args[6:], rounded=isinstance(out.dtype, types.Integer))
                target.store(total, builder.add(args[1], ir.Constant(_INDEX, shift)), work)
            return context.get_dummy_value()

        return signature, codegen

    return typed


def _reversed(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    order = ir.Constant(ir.VectorType(_WORD, LANES), list(range(LANES - 1, -1, -1)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), order)


def _intrinsic(builder: ir.IRBuilder, name: str, vector: ir.VectorType, n_arguments: int) -> ir.Function:
    """Return LLVM's own function `name` of vectors."""
    bits = 32 if vector.element == ir.FloatType() else 64
    kind = ir.FunctionType(vector, [vector] * n_arguments)
    return builder.module.declare_intrinsic(f"llvm.{name}.v{LANES}f{bits}", fnty=kind)


def _clipped(builder: ir.IRBuilder, value: ir.Value, low: ir.Value, high: ir.Value, *, rounded: bool) -> ir.Value:
    if rounded:
        value = builder.call(_intrinsic(builder, "rint", value.type, 1), [value])
    low, high = _spread(builder, low), _spread(builder, high)
    value = builder.select(builder.fcmp_ordered("<", value, low), low, value)
    return builder.select(builder.fcmp_ordered(">", value, high), high, value)


def _mixer(n_vectors: int, *, flipped: bool = False) -> Any:
    typed = _vectors_of(n_vectors, flipped=flipped)
    return intrinsic(
        lambda typingctx, out, at, source, first, pitch, weights: typed(out, at, source, first, pitch, weights)
    )


def _finisher(n_vectors: int) -> Any:
    """As `_mixer`, and round (to integers) and clip."""
    typed = _vectors_of(n_vectors)
    return intrinsic(
        lambda typingctx, out, at, source, first, pitch, weights, low, high: typed(
            out, at, source, first, pitch, weights, low, high
        )
    )


mix_one, mix_four = _mixer(1), _mixer(4)
mix_one_flipped, mix_four_flipped = _mixer(1, flipped=True), _mixer(4, flipped=True)
finish_one, finish_four = _finisher(1), _finisher(4)


@_written
def prefetch(typingctx: Any, source: Any, at: Any) -> Any:
    """Ask for the cache line of `source[at]` for one read."""

    def codegen(context: Any, builder: ir.IRBuilder, _: Any, args: Any) -> Any:
        place = builder.bitcast(_Array(context, builder, source, args[0]).pointer(args[1], vector=False), _BYTES)
        kind = ir.FunctionType(ir.VoidType(), [_BYTES, _WORD, _WORD, _WORD])
        fetch = builder.module.declare_intrinsic("llvm.prefetch.p0", fnty=kind)
        builder.call(fetch, [place, *(ir.Constant(_WORD, n) for n in (0, 2, 1))])  # read, soon, data
        return context.get_dummy_value()

    return types.void(source, types.intp), codegen


@_written
def mix_block(typingctx: Any, out: Any, at: Any, rows: Any, first: Any, weights: Any) -> Any:
    """Mix LANES new voxels of ROWS rows: `out[row, at + lane]` out of `rows[row, first + k] * weights[k, lane]`."""
    signature = types.void(out, types.intp, rows, types.intp, weights)

    def codegen(context: Any, builder: ir.IRBuilder, _: Any, args: Any) -> Any:
        target, old, weight = (_Array(context, builder, k, args[n]) for k, n in ((out, 0), (rows, 2), (weights, 4)))
        work, row_numbers = weights.dtype, [ir.Constant(_INDEX, row) for row in range(ROWS)]

        def terms(tap: ir.Value) -> list[tuple[ir.Value, ir.Value]]:
            shares = weight.load(builder.mul(tap, ir.Constant(_INDEX, LANES)), work)
            places = [builder.add(args[3], builder.mul(row, old.shape[1])) for row in row_numbers]
            values = [old.load(builder.add(place, tap), work, vector=False) for place in places]
            return [(_spread(builder, value), shares) for value in values]

        for row, total in zip(row_numbers, _summed(builder, weight.shape[0], work, ROWS, terms), strict=True):
            target.store(total, builder.add(args[1], builder.mul(row, target.shape[1])), work)
        return context.get_dummy_value()

    return signature, codegen
