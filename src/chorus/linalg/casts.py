"""Numbers of a checkpoint in another type of number, in machine code that LLVM makes at the first call.

The loops are those of `kernels`, written in LLVM's own language: without numba, whose import and whose first call take
half a second of CPU each time, as long as two gigabytes take to cast. Rounding is to nearest, ties to even.

    float16 of float32 bits b, of magnitude m:   m + 0xC8000FFF + odd, shifted by 13     where float16 is normal
                                                 (m + 2^-1 as floats) - 2^-1             below, where its step is 2^-24
    bfloat16:                                    b + 0x7FFF + odd, shifted by 16
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
LANES = 16  # values at a time; LLVM breaks them into what the processor has
Loop = Callable[[int, int, int], int]  # (address of the source, of the result, count): 0 where all is finite

WIDE, NARROW = f"<{LANES} x i32>", f"<{LANES} x i16>"
READ = {
    "float32": f"%b = load {WIDE}, ptr %from, align 4",
    "bfloat16": f"""
  %raw = load {NARROW}, ptr %from, align 2
  %long = zext {NARROW} %raw to {WIDE}
  %b = shl {WIDE} %long, $16""",
    "float16": f"""
  %raw = load {NARROW}, ptr %from, align 2
  %b = zext {NARROW} %raw to {WIDE}""",
}
CAST = {
    "float16": f"""
  %high = lshr {WIDE} %b, $16
  %sign = and {WIDE} %high, $32768
  %m = and {WIDE} %b, $2147483647
  %low = lshr {WIDE} %m, $13
  %odd = and {WIDE} %low, $1
  %biased = add {WIDE} %m, $3355447295
  %even = add {WIDE} %biased, %odd
  %normal = lshr {WIDE} %even, $13
  %mf = bitcast {WIDE} %m to <{LANES} x float>
  %magic = bitcast {WIDE} $1056964608 to <{LANES} x float>
  %sum = fadd <{LANES} x float> %mf, %magic
  %sumb = bitcast <{LANES} x float> %sum to {WIDE}
  %small = sub {WIDE} %sumb, $1056964608
  %is = icmp ult {WIDE} %m, $947912704
  %value = select <{LANES} x i1> %is, {WIDE} %small, {WIDE} %normal
  %whole = or {WIDE} %value, %sign
  %out = trunc {WIDE} %whole to {NARROW}
  %wrong = icmp uge {WIDE} %m, $1199566848
  store {NARROW} %out, ptr %to, align 2""",
    "bfloat16": f"""
  %high = lshr {WIDE} %b, $16
  %odd = and {WIDE} %high, $1
  %half = add {WIDE} %b, $32767
  %even = add {WIDE} %half, %odd
  %whole = lshr {WIDE} %even, $16
  %out = trunc {WIDE} %whole to {NARROW}
  %exponent = and {WIDE} %b, $2139095040
  %rounded = and {WIDE} %whole, $32640
  %nan = icmp eq {WIDE} %exponent, $2139095040
  %infinite = icmp eq {WIDE} %rounded, $32640
  %wrong = or <{LANES} x i1> %nan, %infinite
  store {NARROW} %out, ptr %to, align 2""",
    "float32": f"""
  %exponent = and {WIDE} %b, $2139095040
  %wrong = icmp eq {WIDE} %exponent, $2139095040
  store {WIDE} %b, ptr %to, align 4""",
    "": f"""
  %exponent = and {WIDE} %b, $EXPONENT
  %wrong = icmp eq {WIDE} %exponent, $EXPONENT""",
}
FUNCTION = f"""
define i32 @NAME(ptr %source, ptr %result, i64 %count) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %bad = phi {WIDE} [ zeroinitializer, %entry ], [ %worse, %loop ]
  %from = getelementptr IN, ptr %source, i64 %i
  %to = getelementptr OUT, ptr %result, i64 %i
  BODY
  %more = zext <{LANES} x i1> %wrong to {WIDE}
  %worse = or {WIDE} %bad, %more
  %next = add i64 %i, {LANES}
  %done = icmp uge i64 %next, %count
  br i1 %done, label %end, label %loop
end:
  %found = call i32 @llvm.vector.reduce.or.v{LANES}i32({WIDE} %worse)
  ret i32 %found
}}
declare i32 @llvm.vector.reduce.or.v{LANES}i32({WIDE})
"""


def narrowed(values: Array, source: str, target: str) -> tuple[Array, bool] | None:
    """Values [n] in another type, as its bits, and whether all are finite there; None where nothing can be compiled.

    source: what `values` are: float32, or bfloat16 or float16 as their bits in uint16. target: float32, float16 or
    bfloat16; of what is not finite the bits are of no use.
    """
    loop = _loop(source, target) if source in READ else None
    if loop is None:
        return None
    values = np.ascontiguousarray(values)
    out = np.empty(len(values), np.float32 if target == "float32" else np.uint16)
    return out, _run(loop, values, out)


def finite(values: Array, source: str) -> bool | None:
    """Whether all values are finite (see `narrowed`)."""
    loop = _loop(source, "")
    return None if loop is None else _run(loop, values, None)


def _run(loop: Loop, values: Array, out: Array | None) -> bool:
    whole = len(values) // LANES * LANES
    bad = loop(values.ctypes.data, 0 if out is None else out.ctypes.data, whole) if whole else 0
    if rest := len(values) - whole:
        # in room for all lanes: the loop knows no smaller step
        last = np.zeros(LANES, values.dtype)
        last[:rest] = values[whole:]
        cast = np.empty(LANES, values.dtype if out is None else out.dtype)
        bad |= loop(last.ctypes.data, cast.ctypes.data, LANES)
        if out is not None:
            out[whole:] = cast[:rest]
    return bad == 0


@cache
def _loop(source: str, target: str) -> Loop | None:
    made = _compiled(_written(source, target))
    if made is None:
        return None
    engine, address = made
    function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(address)
    function.engine = engine  # type: ignore[attr-defined]  # the code lives as long as it does
    return function


def _written(source: str, target: str) -> str:
    """The loop in LLVM's language, `$n` written out for every lane."""
    import re

    body = READ[source] + CAST[target].replace("$EXPONENT", "$31744" if source == "float16" else "$2139095040")
    body = re.sub(r"\$(\d+)", lambda m: f"<{', '.join([f'i32 {m[1]}'] * LANES)}>", body)
    of = {"float32": "i32", "": "i16"}
    text = FUNCTION.replace("BODY", body).replace("NAME", "cast")
    return text.replace("IN,", f"{of.get(source, 'i16')},").replace("OUT,", f"{of.get(target, 'i16')},")


def _compiled(text: str) -> tuple[Any, int] | None:
    """(what owns the code, its address) of the function `cast`."""
    if find_spec("llvmlite") is None:
        return None
    import llvmlite.binding as llvm

    try:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        module = llvm.parse_assembly(text)
        module.verify()
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2
        )
        engine = llvm.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        return engine, engine.get_function_address("cast")
    except RuntimeError:  # an LLVM of another language: numpy's casts are slower, and right
        return None
