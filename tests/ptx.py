"""Run the PTX of a Triton kernel on a CPU: what Triton's interpreter cannot, as it looks into no inline assembly.

All threads of all programs go through the text side by side, in NumPy arrays; where they part, those that are furthest
back go on first, and wait for the others at barriers. Every access is checked: one outside of the tensors is an error.
What this cannot show is what the assembler makes of the text, and how exact `ex2.approx`, `lg2.approx`, `rcp.approx`
and `div.full` are.
"""

# mypy: disable-error-code="no-any-return, attr-defined"

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor
from triton.backends.compiler import GPUTarget

from empool._triton import _operators, _plan

Array = NDArray[Any]
_WIDTH = {"8": np.uint8, "16": np.uint16, "32": np.uint32, "64": np.uint64}
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_REGISTER = re.compile(r"\.reg\s+\.\w+\s+(.*)", re.DOTALL)
_GAP = 512
"""Bytes around each tensor that belong to none."""


_FLOATS: dict[str, Callable[..., Array]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "fma": lambda a, b, c: a * b + c,
    "ex2": np.exp2,
    "lg2": np.log2,
    "rcp": lambda a: 1 / a,
}
_LOGIC: dict[str, Callable[..., Array]] = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "not": lambda a: ~a,
}


class Memory:
    """Bytes of tensors at addresses of their own, and which of them may be read and written."""

    def __init__(self) -> None:
        self.bytes = np.zeros(_GAP, np.uint8)
        self.owned = np.zeros(_GAP, bool)
        self.start = 1 << 20

    def add(self, content: Array) -> int:
        """Add a copy of a tensor's bytes and return its address, a multiple of 512."""
        address = self.start + len(self.bytes)
        padded = (-(-len(content) // _GAP) + 1) * _GAP
        self.bytes = np.concatenate([self.bytes, content, np.full(padded - len(content), 0xCD, np.uint8)])
        self.owned = np.concatenate([self.owned, np.ones(len(content), bool), np.zeros(padded - len(content), bool)])
        return address

    def at(self, address: Array, size: int, what: str) -> Array:
        """Return the indices of `size` bytes from each address."""
        index = (address.astype(np.int64) - self.start)[:, None] + np.arange(size)
        if (address % size).any():
            raise IndexError(f"{what}: address {address[(address % size) != 0][0]:#x} is no multiple of {size}")
        inside = ((index >= 0) & (index < len(self.bytes))).all(1)
        inside[inside] = self.owned[index[inside]].all(1)
        if not inside.all():
            raise IndexError(f"{what}: {int((~inside).sum())} threads beside the tensors")
        return index


class Kernel:
    """A kernel's instructions, as (guard, operation, operands), and where its labels are."""

    def __init__(self, text: str) -> None:
        body = _COMMENT.sub("", text)
        entry = body.index(".entry")
        self.threads = int(re.findall(r"\.reqntid\s+(\d+)", body)[0])
        self.params = re.findall(r"\.param\s+\.(\w+)[^,)]*?(\w+_param_\d+)", body[entry : body.index(")", entry)])
        body = body[body.index("{", entry) + 1 :]
        self.local = sum(int(size) for size in re.findall(r"__local_depot\d+\[(\d+)\]", body))
        self.code: list[tuple[str | None, str, list[str]]] = []
        self.labels: dict[str, int] = {}
        self._parse(body)

    def _parse(self, body: str) -> None:
        scopes: list[dict[str, str]] = [{}]
        position, number = 0, 0
        while position < len(body):
            rest = body[position:].lstrip()
            position = len(body) - len(rest)
            if not rest:
                return
            if rest[0] in "{}":
                if rest[0] == "{":  # Its labels are its own, and may be jumped to before they come.
                    number += 1
                    scopes.append({name: f"{name}@{number}" for name in re.findall(r"([$\w]+):", _block(rest))})
                elif len(scopes) == 1:
                    return
                else:
                    scopes.pop()
                position += 1
                continue
            if label := re.match(r"([$\w]+):", rest):
                self.labels[self._renamed(label[1], scopes)] = len(self.code)
                position += label.end()
                continue
            if rest[0] == ".":
                end = position + re.search(r"[;\n]", rest).start() + 1  # type: ignore[union-attr]
                if found := _REGISTER.match(body[position : end - 1]):
                    for name in found[1].split(","):
                        name = name.strip().split("<")[0]
                        if "%" not in name:
                            scopes[-1][name] = f"{name}@{number}"
                position = end
                continue
            end = body.index(";", position)
            self._instruction(body[position:end].strip(), scopes)
            position = end + 1

    @staticmethod
    def _renamed(name: str, scopes: list[dict[str, str]]) -> str:
        return next((scope[name] for scope in reversed(scopes) if name in scope), name)

    def _instruction(self, text: str, scopes: list[dict[str, str]]) -> None:
        guard = None
        if text.startswith("@"):
            guard, text = text.split(None, 1)
            guard = guard[1:]
            sign = "!" if guard[0] == "!" else ""
            guard = sign + self._renamed(guard.lstrip("!"), scopes)
        operation, *operands = text.split(None, 1)
        names = re.split(r",\s*(?![^{]*\})", operands[0].strip()) if operands else []

        def rename(operand: str) -> str:
            return re.sub(r"[$%\w.]+", lambda m: self._renamed(m[0], scopes), operand)

        self.code.append((guard, operation, [rename(name.strip()) for name in names]))


def _block(text: str) -> str:
    """Return what stands between a brace and the one that closes it."""
    depth = 0
    for i, letter in enumerate(text):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if depth == 0:
            return text[1:i]
    raise ValueError("a brace is not closed")


class Run:
    """One start of a kernel: registers and shared memory of all threads of all programs."""

    def __init__(self, kernel: Kernel, programs: int, arguments: list[int], memory: Memory, shared: int) -> None:
        self.kernel, self.memory = kernel, memory
        self.number = programs * kernel.threads
        self.thread = np.tile(np.arange(kernel.threads, dtype=np.uint32), programs)
        self.program = np.repeat(np.arange(programs, dtype=np.uint32), kernel.threads)
        self.shared = np.zeros((programs, max(shared, 1)), np.uint8)
        self.local = np.zeros((self.number, kernel.local), np.uint8)
        self.registers: dict[str, Array] = {}
        self.arguments = {name: value for (_, name), value in zip(kernel.params, [*arguments, 0, 0], strict=False)}
        self.mask = np.ones(self.number, bool)
        self.all = True

    def go(self) -> None:
        """Run to the end."""
        code, labels = self.kernel.code, self.kernel.labels
        counter = np.zeros(self.number, np.int64)
        end = len(code)
        with np.errstate(all="ignore"):
            while True:
                at = int(counter.min())
                if at >= end:
                    return
                active = counter == at
                guard, operation, operands = code[at]
                if operation.startswith("bar") and not active.all():
                    at, active = self._not_waiting(counter)
                    guard, operation, operands = code[at]
                taken = active if guard is None else active & self._guard(guard)
                if operation.startswith("bra"):
                    counter[active] = at + 1
                    counter[taken] = labels[operands[0]]
                    continue
                counter[active] = at + 1
                if operation in ("ret", "exit"):
                    counter[taken] = end
                    continue
                self.mask, self.all = taken, bool(taken.all())
                try:
                    self._execute(operation, operands)
                except IndexError as error:
                    raise IndexError(f"instruction {at}, {operation} {operands}: {error}") from None

    def _not_waiting(self, counter: Array) -> tuple[int, Array]:
        """Find the threads that are furthest back, but those that wait at a barrier for others of their program."""
        code = self.kernel.code
        running = counter < len(code)
        for at in np.unique(counter[running]):
            active = counter == at
            if code[at][1].startswith("bar"):
                missing = (running & ~active).reshape(-1, self.kernel.threads).any(1)
                active = active & ~np.repeat(missing, self.kernel.threads)
            if active.any():
                return int(at), active
        raise RuntimeError("threads wait for each other")

    def _guard(self, name: str) -> Array:
        value = self.registers[name.lstrip("!")]
        return ~value if name[0] == "!" else value

    def read(self, name: str, type: Any) -> Array:
        """Return an operand's bits as an array of a type without sign, or a predicate's."""
        if type is bool:
            return np.full(self.number, name != "0") if name in ("0", "1", "-1") else self.registers[name]
        if name == "%ctaid.x":
            return self.program.astype(type)
        if name == "%tid.x":
            return self.thread.astype(type)
        if name == "global_smem" or name.startswith("__local_depot"):
            return np.zeros(self.number, type)
        if name[:2] in ("0f", "0d"):
            return np.full(self.number, int(name[2:], 16), type)
        if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)U?", name):
            bits = 8 * np.dtype(type).itemsize
            return np.full(self.number, int(name.rstrip("U"), 0) % (1 << bits), type)
        if name not in self.registers:  # Its bytes are replaced before they are used, or they would show.
            return np.full(self.number, 0xA5A5A5A5A5A5A5A5 % (1 << 8 * np.dtype(type).itemsize), type)
        return self.registers[name].astype(type)

    def write(self, name: str, value: Array) -> None:
        """Set a register where threads are active."""
        if name == "_":
            return
        if not self.all:
            before = self.registers.get(name)
            before = np.zeros_like(value) if before is None else before.astype(value.dtype)
            value = np.where(self.mask, value, before)
        self.registers[name] = value

    def _execute(self, operation: str, operands: list[str]) -> None:
        base, *parts = operation.split(".")
        if base in ("ld", "st"):
            _access(self, base, parts, operands)
        elif base in _WHOLE:
            _WHOLE[base](self, parts, operands)
        elif parts[-1].endswith("x2") and base not in ("cvt", "mov"):
            _halves(self, base, parts, operands)
        else:
            type = _of(parts[-1])
            values = [self.read(name, type) for name in operands[1:]]
            self.write(operands[0], _computed(base, parts, values))


def _of(suffix: str) -> Any:
    """Return the type without sign of a type's name."""
    return bool if suffix == "pred" else _WIDTH[re.sub(r"\D", "", suffix.replace("x2", ""))]


def _float(bits: Array, kind: str) -> Array:
    if kind.startswith("bf16"):
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if kind.startswith("f16"):
        return bits.astype(np.uint16).view(np.float16).astype(np.float64)
    return bits.view({"f32": np.float32, "f64": np.float64}[kind])


def _bits(value: Array, kind: str) -> Array:
    """Round to a type, to nearest even; a NaN is the one that the GPU makes."""
    if kind.startswith("bf16"):
        exponent = np.maximum(np.frexp(np.where(np.isfinite(value), value, 1.0))[1] - 1, -126) - 7
        rounded = np.ldexp(np.rint(np.ldexp(value, -exponent)), exponent)
        rounded = np.where(np.isfinite(value), rounded, value).astype(np.float32)
        found = (rounded.view(np.uint32) >> 16).astype(np.uint16)
        return np.where(np.isnan(value), np.uint16(0x7FFF), found).astype(np.uint16)
    if kind.startswith("f16"):
        found = value.astype(np.float16).view(np.uint16)
        return np.where(np.isnan(value), np.uint16(0x7FFF), found).astype(np.uint16)
    if kind == "f64":
        return value.astype(np.float64).view(np.uint64)
    found = value.astype(np.float32).view(np.uint32)
    return np.where(np.isnan(value), np.uint32(0x7FFFFFFF), found).astype(np.uint32)


def _signed(bits: Array) -> Array:
    return bits.view({1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}[bits.dtype.itemsize])


def _extreme(base: str, parts: list[str], one: Array, other: Array, kind: str) -> Array:
    """Return maxima or minima of floats' bits: -0 is less than 0, and NaN is none unless it was asked for."""
    left, right = _float(one, kind), _float(other, kind)
    width = 8 * one.dtype.itemsize
    sign, rest = one.dtype.type(1 << (width - 1)), one.dtype.type((1 << (width - 1)) - 1)

    def order(bits: Array) -> Array:
        magnitude = (bits & rest).astype(np.int64)
        return np.where(bits & sign, -magnitude - 1, magnitude)

    first = order(one) >= order(other) if base == "max" else order(one) <= order(other)
    found = np.where(first, one, other)
    found = np.where(np.isnan(left), other, np.where(np.isnan(right), one, found))
    nan = np.isnan(left) | np.isnan(right) if "NaN" in parts else np.isnan(left) & np.isnan(right)
    return np.where(nan, one.dtype.type(0x7FFF if width == 16 else 0x7FFFFFFF), found)


def _flushed(value: Array) -> Array:
    """Replace denormal numbers of float32 by zeros of their sign."""
    return np.where(np.abs(value) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), value), value)


def _arithmetic(base: str, parts: list[str], values: list[Array], kind: str) -> Array:
    """Do a float's arithmetic on bits; fused where it is `fma`."""
    if base in ("max", "min"):
        return _extreme(base, parts, values[0], values[1], kind)
    if base in ("abs", "neg"):
        sign = values[0].dtype.type(1 << (8 * values[0].dtype.itemsize - 1))
        return values[0] & ~sign if base == "abs" else values[0] ^ sign
    floats = [_float(value, kind) for value in values]
    if "ftz" in parts:
        floats = [_flushed(value) for value in floats]
    if base == "fma":
        floats = [value.astype(np.longdouble) for value in floats]
    result = _FLOATS[base](*floats)
    if "ftz" in parts:
        result = _flushed(result)
    if "sat" in parts:
        result = np.where(np.isnan(result), 0.0, np.clip(result, 0.0, 1.0))
    return _bits(result.astype(np.float64), kind) if kind not in ("f32", "f64") else _bits(result, kind)


def _computed(base: str, parts: list[str], values: list[Array]) -> Array:
    kind = parts[-1]
    if kind in ("f32", "f64", "f16", "bf16"):
        return _arithmetic(base, parts, values, kind)
    if kind == "pred":
        return _LOGIC[base](*values)
    bits = np.uint64(8 * values[0].dtype.itemsize)
    a = values[0]
    type = a.dtype.type
    signed = [_signed(value) for value in values] if kind[0] == "s" else values
    if base in ("add", "sub"):
        return a + values[1] if base == "add" else a - values[1]
    if base in _LOGIC:
        return _LOGIC[base](*values)
    if base == "neg":
        return (~a) + type(1)
    if base in ("max", "min"):
        return (np.maximum if base == "max" else np.minimum)(signed[0], signed[1]).view(a.dtype)
    if base in ("shl", "shr"):
        by = np.minimum(values[1].astype(np.uint64), bits)
        if base == "shl":
            return np.where(
                by >= bits, type(0), (a.astype(np.uint64) << np.minimum(by, bits - np.uint64(1))).astype(a.dtype)
            )
        kept = np.minimum(by, bits - np.uint64(1)).astype(a.dtype)
        if kind[0] == "s":
            return (signed[0] >> kept.view(signed[0].dtype)).view(a.dtype)
        return np.where(by >= bits, type(0), a >> kept)
    raise NotImplementedError(".".join([base, *parts]))


def _shift_amounts(run: Run, parts: list[str], operands: list[str], base: str) -> None:
    type = _of(parts[-1])
    values = [run.read(operands[1], type), run.read(operands[2], np.uint32)]
    run.write(operands[0], _computed(base, parts, values))


def _products(run: Run, base: str, parts: list[str], operands: list[str]) -> None:
    """`mul` and `mad` of integers: lo, hi and wide; of floats as others."""
    if parts[-1].endswith("x2"):
        _halves(run, base, parts, operands)
        return
    if parts[-1] in ("f32", "f64", "f16", "bf16"):
        values = [run.read(name, _of(parts[-1])) for name in operands[1:]]
        run.write(operands[0], _arithmetic(base, parts, values, parts[-1]))
        return
    type = _of(parts[-1])
    sign = parts[-1][0] == "s"
    one, other = (run.read(name, type) for name in operands[1:3])
    bits = 8 * np.dtype(type).itemsize
    if sign:
        product = _signed(one).astype(object if bits == 64 else np.int64) * _signed(other).astype(
            object if bits == 64 else np.int64
        )
    else:
        product = one.astype(object if bits == 64 else np.uint64) * other.astype(object if bits == 64 else np.uint64)
    if parts[0] == "wide":
        wide = _WIDTH[str(2 * bits)]
        found = product.astype(np.int64 if sign else np.uint64).astype(wide)
    elif parts[0] == "hi":
        found = (product >> bits).astype(np.int64 if sign else np.uint64).astype(type)
    else:
        found = np.array([int(p) % (1 << bits) for p in product], type) if bits == 64 else product.astype(type)
    if base == "mad":
        found = found + run.read(operands[3], found.dtype)
    run.write(operands[0], found)


def _halves(run: Run, base: str, parts: list[str], operands: list[str]) -> None:
    """Instructions of two 16-bit numbers."""
    kind = parts[-1]
    values = [run.read(name, np.uint32) for name in operands[1:]]
    low = [(value & np.uint32(0xFFFF)).astype(np.uint16) for value in values]
    high = [(value >> np.uint32(16)).astype(np.uint16) for value in values]
    one = kind[:-2]
    results = []
    for half in (low, high):
        if base == "set":
            result = np.zeros(run.number, np.uint16)
            true = {"u32": 0xFFFF, "s32": 0xFFFF, "bf16x2": 0x3F80, "f16x2": 0x3C00}[parts[-2]]
            result[_compared(parts[0], half[0], half[1], one)] = true
        elif base == "setp":
            result = _compared(parts[0], half[0], half[1], one)
        else:
            result = _computed(base, [*parts[:-1], one], half)
        results.append(result)
    if base == "setp":
        for name, value in zip(operands[0].split("|"), results, strict=True):
            run.write(name, value)
    else:
        run.write(operands[0], results[0].astype(np.uint32) | (results[1].astype(np.uint32) << np.uint32(16)))


def _compared(how: str, one: Array, other: Array, kind: str) -> Array:
    if kind in ("f32", "f64", "f16", "bf16"):
        a, b = _float(one, kind), _float(other, kind)
        nan = np.isnan(a) | np.isnan(b)
        if how in ("num", "nan"):
            return nan if how == "nan" else ~nan
        found = {"eq": a == b, "ne": a != b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}[how[:2]]
        return found | nan if how.endswith("u") and len(how) == 3 else found & ~nan
    if kind[0] == "s":
        one, other = _signed(one), _signed(other)
    return {
        "eq": one == other,
        "ne": one != other,
        "lt": one < other,
        "le": one <= other,
        "gt": one > other,
        "ge": one >= other,
    }[{"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}.get(how, how)]


def _setp(run: Run, parts: list[str], operands: list[str]) -> None:
    if parts[-1].endswith("x2"):
        _halves(run, "setp", parts, operands)
        return
    type = _of(parts[-1])
    found = _compared(parts[0], run.read(operands[1], type), run.read(operands[2], type), parts[-1])
    if parts[1] in _LOGIC:  # Combined with another predicate.
        found = _LOGIC[parts[1]](found, run.read(operands[3], bool))
    run.write(operands[0], found)


def _selp(run: Run, parts: list[str], operands: list[str]) -> None:
    type = _of(parts[-1])
    run.write(
        operands[0], np.where(run.registers[operands[3]], run.read(operands[1], type), run.read(operands[2], type))
    )


def _mov(run: Run, parts: list[str], operands: list[str]) -> None:
    to, source = operands
    type = _of(parts[-1])
    if to[0] == "{":
        names = [name.strip() for name in to.strip("{}").split(",")]
        bits = 8 * np.dtype(type).itemsize // len(names)
        value = run.read(source, type)
        for i, name in enumerate(names):
            run.write(name, (value >> type(bits * i)).astype(_WIDTH[str(bits)]))
    elif source[0] == "{":
        names = [name.strip() for name in source.strip("{}").split(",")]
        bits = 8 * np.dtype(type).itemsize // len(names)
        value = np.zeros(run.number, type)
        for i, name in enumerate(names):
            if name in run.registers or not name.startswith("%"):
                value |= run.read(name, _WIDTH[str(bits)]).astype(type) << type(bits * i)
        run.write(to, value)
    else:
        run.write(to, run.read(source, type))


def _lop3(run: Run, parts: list[str], operands: list[str]) -> None:
    a, b, c = (run.read(name, np.uint32) for name in operands[1:4])
    table = int(operands[4], 0)
    found = np.zeros(run.number, np.uint32)
    for i in range(8):
        if table >> i & 1:
            found |= (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
    run.write(operands[0], found)


def _prmt(run: Run, parts: list[str], operands: list[str]) -> None:
    a, b, choice = (run.read(name, np.uint32).astype(np.uint64) for name in operands[1:4])
    both = a | (b << np.uint64(32))
    found = np.zeros(run.number, np.uint64)
    for i in range(4):
        which = (choice >> np.uint64(4 * i)) & np.uint64(15)
        byte = (both >> ((which & np.uint64(7)) * np.uint64(8))) & np.uint64(255)
        byte = np.where(which & np.uint64(8), np.where(byte & np.uint64(128), np.uint64(255), np.uint64(0)), byte)
        found |= byte << np.uint64(8 * i)
    run.write(operands[0], found.astype(np.uint32))


def _cvt(run: Run, parts: list[str], operands: list[str]) -> None:
    rounding = [part for part in parts if part in ("rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi")]
    to, source = parts[-2:]
    if to in ("bf16x2", "f16x2"):  # The first operand is the upper half.
        upper, lower = (_float(run.read(name, np.uint32), "f32") for name in operands[1:3])
        bits = [_bits(value.astype(np.float64), to[:-2]).astype(np.uint32) for value in (lower, upper)]
        run.write(operands[0], bits[0] | (bits[1] << np.uint32(16)))
        return
    value = run.read(operands[1], _of(source))
    floats = ("f32", "f64", "f16", "bf16")
    if source in floats:
        number = _float(value, source).astype(np.float64)
        if rounding and rounding[0].endswith("i"):
            number = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[rounding[0]](number)
        if to in floats:
            run.write(operands[0], _bits(number, to))
        else:
            limits = np.iinfo(np.dtype(f"{'int' if to[0] == 's' else 'uint'}{to[1:]}"))
            number = np.clip(np.where(np.isnan(number), 0, number), limits.min, limits.max)
            run.write(operands[0], number.astype(np.int64).astype(_of(to)))
        return
    whole = _signed(value).astype(np.int64) if source[0] == "s" else value
    if to in floats:
        run.write(operands[0], _bits(whole.astype(np.float64), to))
    elif to == "s8":  # In a wider register, whose upper bits are the sign.
        run.write(operands[0], whole.astype(np.int8).astype(np.int16).view(np.uint16))
    else:
        run.write(operands[0], whole.astype(np.uint64).astype(_of(to)))


def _shf(run: Run, parts: list[str], operands: list[str]) -> None:
    low, high, by = (run.read(name, np.uint32).astype(np.uint64) for name in operands[1:4])
    by = by & np.uint64(31) if parts[1] == "wrap" else np.minimum(by, np.uint64(32))
    both = low | (high << np.uint64(32))
    found = both >> by if parts[0] == "r" else (both << by) >> np.uint64(32)
    run.write(operands[0], found.astype(np.uint32))


def _shfl(run: Run, parts: list[str], operands: list[str]) -> None:
    to = operands[0].split("|")[0]
    value, by = run.read(operands[1], np.uint32), run.read(operands[2], np.uint32).astype(np.int64)
    lane = np.arange(run.number) % 32
    source = {"bfly": lane ^ by, "idx": by & 31, "down": lane + by, "up": lane - by}[parts[1]]
    source = np.where((source < 0) | (source > 31), lane, source)
    run.write(to, value[np.arange(run.number) - lane + source])


def _redux(run: Run, parts: list[str], operands: list[str]) -> None:
    value = _signed(run.read(operands[1], np.uint32)) if parts[-1] == "s32" else run.read(operands[1], np.uint32)
    lowest = np.iinfo(value.dtype).min if parts[1] == "max" else np.iinfo(value.dtype).max
    warps = np.where(run.mask, value, lowest).reshape(-1, 32)
    found = warps.max(1) if parts[1] == "max" else warps.min(1)
    run.write(operands[0], np.repeat(found, 32).view(np.uint32))


def _bfe(run: Run, parts: list[str], operands: list[str]) -> None:
    value = run.read(operands[1], _of(parts[-1])).astype(np.uint64)
    start, length = (run.read(name, np.uint32).astype(np.uint64) for name in operands[2:4])
    found = (value >> start) & ((np.uint64(1) << length) - np.uint64(1))
    if parts[-1][0] == "s":
        sign = (found >> (length - np.uint64(1))) & np.uint64(1)
        found = np.where(sign != 0, found | ~((np.uint64(1) << length) - np.uint64(1)), found)
    run.write(operands[0], found.astype(_of(parts[-1])))


def _bfi(run: Run, parts: list[str], operands: list[str]) -> None:
    new, old = (run.read(name, np.uint32).astype(np.uint64) for name in operands[1:3])
    start, length = (run.read(name, np.uint32).astype(np.uint64) for name in operands[3:5])
    mask = ((np.uint64(1) << length) - np.uint64(1)) << start
    run.write(operands[0], ((old & ~mask) | ((new << start) & mask)).astype(np.uint32))


def _popc(run: Run, parts: list[str], operands: list[str]) -> None:
    run.write(operands[0], np.bitwise_count(run.read(operands[1], _of(parts[-1]))).astype(np.uint32))


def _set(run: Run, parts: list[str], operands: list[str]) -> None:
    if parts[-1].endswith("x2"):
        _halves(run, "set", parts, operands)
        return
    type = _of(parts[-1])
    found = _compared(parts[0], run.read(operands[1], type), run.read(operands[2], type), parts[-1])
    true = np.uint32(0x3F800000) if parts[-2] == "f32" else np.uint32(0xFFFFFFFF)
    run.write(operands[0], np.where(found, true, np.uint32(0)))


def _div(run: Run, parts: list[str], operands: list[str]) -> None:
    type = _of(parts[-1])
    values = [run.read(name, type) for name in operands[1:]]
    if parts[-1][0] in "su":
        one, other = (_signed(value) if parts[-1][0] == "s" else value for value in values)
        other = np.where(other == 0, 1, other)
        found = np.trunc(one.astype(np.float64) / other).astype(np.int64)
        run.write(operands[0], found.astype(type))
    else:
        run.write(operands[0], _arithmetic("div", parts, values, parts[-1]))


def _address(run: Run, operand: str) -> Array:
    inner = operand.strip("[] ")
    name, _, offset = inner.partition("+")
    base = run.read(name.strip(), np.uint64)
    return base + np.uint64(int(offset.strip() or "0", 0) % (1 << 64))


def _access(run: Run, base: str, parts: list[str], operands: list[str]) -> None:
    """`ld` and `st` of parameters, of tensors and of shared memory, whole vectors at once."""
    type = _of(parts[-1])
    if "param" in parts:
        run.write(
            operands[0],
            np.full(run.number, run.arguments[operands[1].strip("[] ")] % (1 << 64), np.uint64).astype(type),
        )
        return
    target, values = (operands[1], operands[0]) if base == "ld" else (operands[0], operands[1])
    names = [name.strip() for name in values.strip("{} ").split(",")]
    size, each = np.dtype(type).itemsize * len(names), np.dtype(type).itemsize
    who = np.flatnonzero(run.mask)
    address = _address(run, target)[who]
    if "global" in parts:
        index = run.memory.at(address, size, base)
    else:
        index = address.astype(np.int64)[:, None] + np.arange(size)
    place: Any = index
    store = run.memory.bytes
    if "shared" in parts:
        store, place = run.shared, (run.program[who].astype(np.int64)[:, None], index)
    elif "global" not in parts:  # A thread's own.
        store, place = run.local, (who[:, None], index)
    if "global" not in parts and len(index) and (index.min() < 0 or index.max() >= store.shape[1]):
        raise IndexError("outside of a program's memory")
    if base == "ld":
        content = store[place]
        for i, name in enumerate(names):
            found = np.zeros(run.number, type)
            found[who] = np.ascontiguousarray(content[:, i * each : (i + 1) * each]).view(type)[:, 0]
            run.write(name, found)
        return
    columns = [np.ascontiguousarray(run.read(name, type)[who]).view(np.uint8).reshape(len(who), each) for name in names]
    store[place] = np.concatenate(columns, 1)


def _matrix(run: Run, base: str, parts: list[str], operands: list[str]) -> None:
    """`ldmatrix` and `stmatrix`: 8x8 matrices of 16 bits; a thread has two neighbours of a row in each."""
    number = int(next(part for part in parts if re.fullmatch(r"x[124]", part))[1:])
    target, values = (operands[1], operands[0]) if base == "ldmatrix" else (operands[0], operands[1])
    names = [name.strip() for name in values.strip("{} ").split(",")]
    address = _address(run, target).astype(np.int64)
    lane = np.arange(run.number) % 32
    warp = np.arange(run.number) - lane
    for m in range(number):
        found = np.zeros(run.number, np.uint32)
        for half in range(2):
            row, column = lane // 4, 2 * (lane % 4) + half
            if "trans" in parts:
                row, column = column, row
            at = address[warp + 8 * m + row] + 2 * column
            bytes_at = at[:, None] + np.arange(2)
            rows = run.program.astype(np.int64)[:, None]
            if base == "ldmatrix":
                half_value = np.ascontiguousarray(run.shared[rows, bytes_at]).view(np.uint16)[:, 0]
                found |= half_value.astype(np.uint32) << np.uint32(16 * half)
            else:
                value = (run.read(names[m], np.uint32) >> np.uint32(16 * half)).astype(np.uint16)
                run.shared[rows, bytes_at] = np.ascontiguousarray(value).view(np.uint8).reshape(-1, 2)
        if base == "ldmatrix":
            run.write(names[m], found)


_WHOLE: dict[str, Callable[[Run, list[str], list[str]], None]] = {
    "mov": _mov,
    "setp": _setp,
    "set": _set,
    "selp": _selp,
    "lop3": _lop3,
    "prmt": _prmt,
    "cvt": _cvt,
    "shf": _shf,
    "shfl": _shfl,
    "redux": _redux,
    "bfe": _bfe,
    "bfi": _bfi,
    "popc": _popc,
    "div": _div,
    "shl": lambda run, parts, operands: _shift_amounts(run, parts, operands, "shl"),
    "shr": lambda run, parts, operands: _shift_amounts(run, parts, operands, "shr"),
    "mul": lambda run, parts, operands: _products(run, "mul", parts, operands),
    "mad": lambda run, parts, operands: _products(run, "mad", parts, operands),
    "ldmatrix": lambda run, parts, operands: _matrix(run, "ldmatrix", parts, operands),
    "stmatrix": lambda run, parts, operands: _matrix(run, "stmatrix", parts, operands),
    "cvta": lambda run, parts, operands: run.write(operands[0], run.read(operands[1], np.uint64)),
    "bar": lambda run, parts, operands: None,
    "barrier": lambda run, parts, operands: None,
}


def on_ptx(operator: Callable[..., Any], *arguments: Any, capability: int = 90) -> Any:
    """Call one of `_triton._operators` on a CPU's tensors: its kernels are compiled for a GPU and their PTX is run."""
    with _planned_for(packed=capability >= 90), _compiled_for(GPUTarget("cuda", capability, 32), _launched):
        return operator(*arguments)


@contextlib.contextmanager
def _planned_for(packed: bool) -> Iterator[None]:
    """Plan kernels with or without a GPU's own instructions; plans, which a process keeps, are made anew."""
    before = _plan.is_packed
    if before() == packed:
        yield
        return
    _plan.is_packed = lambda: packed
    _forget_plans()
    try:
        yield
    finally:
        _plan.is_packed = before
        _forget_plans()


def _forget_plans() -> None:
    for each in (*vars(_plan).values(), *vars(_operators).values()):
        if hasattr(each, "cache_clear"):
            each.cache_clear()


def for_amd(operator: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Compile an operator's kernels for an AMD GPU, and return what they were compiled to."""
    found = []

    def launch(kernel: Any, plan: Any, *tensors: Tensor) -> None:
        found.append(kernel.warmup(*tensors, grid=(1,), **plan.arguments).asm)

    with _planned_for(packed=False), _compiled_for(GPUTarget("hip", "gfx942", 64), launch):
        operator(*arguments)
    return found


@contextlib.contextmanager
def _compiled_for(target: GPUTarget, launch: Callable[..., None]) -> Iterator[None]:
    before = triton.runtime.driver._active, _operators.launch
    triton.runtime.driver._active = SimpleNamespace(
        get_current_target=lambda: target,
        get_current_device=lambda: target.arch,  # Triton asks once a device what it is.
        get_current_stream=lambda _: 0,
    )
    _operators.launch = launch
    try:
        yield
    finally:
        triton.runtime.driver._active, _operators.launch = before


def _launched(kernel: Any, plan: Any, *tensors: Tensor) -> None:
    if plan.programs == 0:
        return
    compiled = kernel.warmup(*tensors, grid=(1,), **plan.arguments)
    memory, storages = (
        Memory(),
        [torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()) for tensor in tensors],
    )
    known = {storage.data_ptr(): storage for storage in storages}  # One tensor may be several arguments.
    places = {address: memory.add(storage.numpy()) for address, storage in known.items()}
    begins = [places[storage.data_ptr()] for storage in storages]
    addresses = [begin + t.storage_offset() * t.element_size() for begin, t in zip(begins, tensors, strict=True)]
    named = dict(zip(kernel.arg_names, addresses, strict=False)) | plan.arguments
    taken = [named[name] for name, type in compiled.src.signature.items() if type != "constexpr"]
    Run(Kernel(compiled.asm["ptx"]), plan.programs, taken, memory, compiled.metadata.shared).go()
    for storage, begin in zip(storages, begins, strict=True):
        storage[:] = torch.from_numpy(memory.bytes[begin - memory.start :][: len(storage)])
