"""The compiled kernels, through their plain C interface (`native/include/deepseek_native.h`).

They are optional: without a compiler at installation everything runs on torch.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from deepseek.core.codes import Bits, Codes
from deepseek.core.errors import CheckpointError, ConfigError

LEVELS = (
    "portable",
    "AVX2",
    "AVX-VNNI",
    "AVX-512 VNNI",
    "AVX-512 VNNI and BF16",
    "NEON with dot products",
)
FORMATS: dict[tuple[Bits, bool], int] = {(4, False): 0, (8, False): 1, (6, True): 2, (4, True): 3}
"""By bits, and whether scales have units."""
DTYPES = {torch.float32: 0, torch.bfloat16: 1}
NAMES = ("deepseek_native.so", "deepseek_native.dylib", "deepseek_native.dll")
VERSION = 13
"""Of the library's interface."""
BLOCK = 32
"""Columns come in multiples of this."""
PROBLEMS = (
    "",
    "its shape does not fit: columns must come in multiples of 32, with units of 256",
    "it holds scales that are no numbers, codes that do not fit, or numbers of what is not there",
    "its memory is not aligned",
    "its format is unknown",
    "there is not enough memory",
    "its file cannot be read or written",
    "its file is damaged",
)
NO_MEMORY, IO, DAMAGED = 5, 6, 7
"""Of `PROBLEMS`, those that are nobody's mistake: memory and files."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled library; None if it was not built. `$DEEPSEEK_NATIVE` names another build."""
    for path in _candidates():
        if path.exists():
            found = ctypes.CDLL(str(path))
            # One that was left from an earlier installation is as good as none.
            if getattr(found, "ds_version", int)() == VERSION:
                return _declared(found)
    return None


def _candidates() -> Iterator[Path]:
    """Where the library may be: beside this file, or with an editable installation's metadata."""
    if named := os.environ.get("DEEPSEEK_NATIVE"):
        yield Path(named)
        return
    for name in NAMES:
        yield Path(__file__).parent / name
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files("deepseek") or ():
            if file.name in NAMES:
                yield Path(str(file.locate()))


def is_available() -> bool:
    """Whether the compiled kernels are here."""
    return library() is not None


def is_fast() -> bool:
    """Whether there are kernels for this processor that beat torch's."""
    return level() not in ("none", LEVELS[0])


def require() -> None:
    """Make sure of the kernels.

    Raises:
        ConfigError: They were not built.
    """
    if library() is None:
        raise ConfigError(
            "the native kernels were not built when the package was installed",
            "install a C++ compiler and install the package again, or use another --dtype",
        )


def level() -> str:
    """The instruction set in use."""
    found = library()
    return LEVELS[found.ds_level_in_use()] if found else "none"


@functools.cache
def build() -> str:
    """A digest of the compiled library: another build may round another way. Empty without one."""
    found = library()
    return "" if found is None else hashlib.sha256(Path(found._name).read_bytes()).hexdigest()


def levels() -> list[str]:
    """The instruction sets that this processor has kernels for, the plain code first."""
    found, best = library(), level()
    if found is None:
        return []
    here = [name for i, name in enumerate(LEVELS) if not found.ds_use_level(i)]
    use_level(best)
    return here


def use_level(name: str) -> None:
    """Use a lesser instruction set than the best, e.g. to test it.

    Raises:
        ValueError: This processor does not have it, or there are no kernels.
    """
    found = library()
    if found is None or name not in LEVELS or found.ds_use_level(LEVELS.index(name)):
        raise ValueError(f"no kernels for {name} here")


def use_threads(n_threads: int) -> None:
    """Share products among that many threads."""
    if found := library():
        found.ds_use_threads(n_threads)


def packed_bytes(bits: Bits, n_out: int, n_in: int, *, has_units: bool = False) -> int:
    """Bytes that a matrix takes in the kernels' layout; 0 if its shape does not fit."""
    found = library()
    return int(found.ds_packed_bytes(FORMATS[bits, has_units], n_out, n_in)) if found else 0


class NativeMatrix:
    """A matrix of 4-, 6- or 8-bit weights in the kernels' layout, outside torch's memory."""

    def __init__(self, bits: Bits, n_out: int, n_in: int, *, has_units: bool = False) -> None:
        """Reserve memory; fill it with `put`.

        Raises:
            CheckpointError: The shape does not fit.
            MemoryError: There is not enough memory.
        """
        found = library()
        assert found is not None
        self._library = found
        self.bits, self.shape = bits, (n_out, n_in)
        self._format = FORMATS[bits, has_units]
        self.n_bytes = int(found.ds_packed_bytes(self._format, n_out, n_in))
        if not self.n_bytes:
            raise CheckpointError(f"a matrix of {n_out} x {n_in} weights: {PROBLEMS[1]}")
        self._memory = found.ds_allocate(self.n_bytes)
        if not self._memory:
            raise MemoryError(f"{self.n_bytes:,} bytes for weights")

    def __del__(self) -> None:
        if getattr(self, "_memory", None):
            self._library.ds_release(self._memory)

    def put(self, first: int, rows: Codes) -> None:
        """Pack some rows.

        Raises:
            CheckpointError: They do not fit, or hold what is no number.
        """
        codes, scales = rows.codes.contiguous(), rows.scales.contiguous()
        zeros = None if rows.zeros is None else rows.zeros.contiguous()
        units = None if rows.units is None else rows.units.contiguous()
        problem = self._library.ds_pack(
            self._format,
            *self.shape,
            rows.group,
            first,
            codes.shape[0],
            codes.data_ptr(),
            scales.data_ptr(),
            None if zeros is None else zeros.data_ptr(),
            None if units is None else units.data_ptr(),
            self._memory,
        )
        if problem:
            raise CheckpointError(f"a quantised matrix: {PROBLEMS[problem]}", "fetch it again")

    @property
    def place(self) -> tuple[int, int, int, int]:
        """Format, rows, columns and address, as the library takes them."""
        assert self._memory
        return self._format, *self.shape, self._memory

    def unpack(self) -> Float[Tensor, "N K"]:
        """The weights as they are used, in float32."""
        numbers = torch.empty(self.shape)
        problem = self._library.ds_unpack(
            self._format, *self.shape, 0, self.shape[0], self._memory, numbers.data_ptr()
        )
        assert not problem, PROBLEMS[problem]
        return numbers

    def multiply(
        self, x: Float[Tensor, "R K"], out: Float[Tensor, "R M"], column: int, bias: Tensor | None
    ) -> None:
        """Write `x @ weights.T + bias` into the columns of `out` from `column` on.

        Args:
            x: Contiguous float32 or bfloat16 rows.
            out: Contiguous, of the same dtype.
            column: Where this matrix's part begins.
            bias: Contiguous float32, one a row of the matrix.
        """
        size = out.element_size()
        problem = self._library.ds_matmul(
            self._format,
            *self.shape,
            self._memory,
            DTYPES[x.dtype],
            x.shape[0],
            x.data_ptr(),
            None if bias is None else bias.data_ptr(),
            out.data_ptr() + column * size,
            out.shape[1],
        )
        if problem:
            raise RuntimeError(f"a product with {self.shape}: {PROBLEMS[problem]}")


def _declared(found: ctypes.CDLL) -> ctypes.CDLL:
    integer, size, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
    found.ds_packed_bytes.argtypes = [integer, size, size]
    found.ds_packed_bytes.restype = size
    found.ds_allocate.argtypes = [size]
    found.ds_allocate.restype = pointer
    found.ds_release.argtypes = [pointer]
    found.ds_release.restype = None
    found.ds_checksum.argtypes = [pointer, size]
    found.ds_checksum.restype = ctypes.c_uint32
    found.ds_pack.argtypes = [integer, size, size, integer, size, size, *[pointer] * 5]
    found.ds_unpack.argtypes = [integer, size, size, size, size, pointer, pointer]
    found.ds_matmul.argtypes = [
        *(integer, size, size, pointer, integer, size),
        *(pointer, pointer, pointer, size),
    ]
    return found
