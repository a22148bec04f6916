"""A bundle of NumPy arrays that compiled functions take as one pointer.

Numba passes a named tuple of arrays as seven machine words an array, at every call: with thirty arrays and a hundred
kernels that is most of the compiling (171 s, against under 30 s so; docs/adr/0003). Here a bundle is the address
of a table of (data, shape); reading an attribute makes the array view on the spot, which LLVM reduces to a load.
In plain Python (``NUMBA_DISABLE_JIT=1``) it is an object with attributes.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.extending import (
    NativeValue,
    models,
    register_model,
    typeof_impl,
    unbox,
)
from numba.core.imputils import impl_ret_untracked, lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.np import numpy_support
from numba.np.arrayobj import populate_array
from numpy.typing import NDArray

#: Words of the table for each array: address, then up to three dimensions.
_WORDS = 4
#: Bytes of a cache line.
_LINE = 64


def aligned_zeros(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Zeros that begin where a cache line does, so that records of whole lines lie on no more of them than they must."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    room = np.zeros(size + _LINE, np.uint8)
    at = -room.ctypes.data % _LINE
    return room[at : at + size].view(dtype).reshape(shape)


class ArrayBundle:
    """Base of a bundle. Subclasses name their arrays in ``FIELDS``: name → (dtype, number of dimensions)."""

    FIELDS: dict[str, tuple[Any, int]]

    def __init__(self, **arrays: np.ndarray[Any, Any]) -> None:
        if set(arrays) != set(self.FIELDS):
            raise TypeError(f"{type(self).__name__} takes {sorted(self.FIELDS)}")
        table = np.zeros((len(self.FIELDS), _WORDS), np.int64)
        for i, (name, (dtype, ndim)) in enumerate(self.FIELDS.items()):
            array = arrays[name]
            if array.dtype != dtype or array.ndim != ndim or not array.flags.c_contiguous:
                raise TypeError(
                    f"{name}: want C-contiguous {dtype} with {ndim} dimensions, got {array.dtype}"
                )
            table[i, 0] = array.ctypes.data
            table[i, 1 : 1 + ndim] = array.shape
            # Plain Python reads fields of records as attributes only from a record array.
            is_plain = bool(getattr(config, "DISABLE_JIT", 0)) and array.dtype.names is not None
            setattr(self, name, array.view(np.recarray) if is_plain else array)
        self._table = table
        self._address = int(table.ctypes.data)

    def copy(self, **instead: np.ndarray[Any, Any]) -> Self:
        """Another with the same contents, but for the arrays that are given."""
        arrays = {name: getattr(self, name).copy() for name in self.FIELDS if name not in instead}
        return type(self)(**arrays, **instead)


class BundleType(types.Type):  # type: ignore[misc]
    """Numba's type of one subclass of ArrayBundle."""

    def __init__(self, cls: type[ArrayBundle]) -> None:
        self.cls = cls
        super().__init__(name=f"Bundle{cls.__name__}")

    @property
    def key(self) -> str:
        """Equality by the class's name."""
        return str(self.name)

    def array_type(self, name: str) -> Any:
        """Numba's type of one of the arrays."""
        dtype, ndim = self.cls.FIELDS[name]
        return types.Array(numpy_support.from_dtype(np.dtype(dtype)), ndim, "C")


@typeof_impl.register(ArrayBundle)
def _typeof(val: ArrayBundle, _context: Any) -> BundleType:
    return BundleType(type(val))


register_model(BundleType)(models.OpaqueModel)


@unbox(BundleType)
def _unbox(_typ: Any, obj: Any, c: Any) -> Any:
    number = c.pyapi.object_getattr_string(obj, "_address")
    address = c.pyapi.long_as_longlong(number)
    c.pyapi.decref(number)
    pointer = c.builder.inttoptr(address, c.context.get_value_type(types.voidptr))
    return NativeValue(pointer, is_error=cgutils.is_not_null(c.builder, c.pyapi.err_occurred()))


@infer_getattr
class _BundleAttribute(AttributeTemplate):  # type: ignore[misc]
    key = BundleType

    def generic_resolve(self, typ: BundleType, attr: str) -> Any:
        return typ.array_type(attr) if attr in typ.cls.FIELDS else None


@lower_getattr_generic(BundleType)
def _getattr(context: Any, builder: Any, typ: BundleType, val: Any, attr: str) -> Any:
    aryty = typ.array_type(attr)
    at = list(typ.cls.FIELDS).index(attr) * _WORDS
    word = ir.IntType(64)
    table = builder.bitcast(val, word.as_pointer())

    def load(i: int) -> Any:
        value = builder.load(builder.gep(table, [ir.Constant(word, at + i)]))
        # The table never changes while a kernel runs: let LLVM keep what it has read.
        value.set_metadata("invariant.load", builder.module.add_metadata([]))
        return value

    ary = context.make_array(aryty)(context, builder)
    itemsize = context.get_abi_sizeof(context.get_data_type(aryty.dtype))
    shape = [load(1 + d) for d in range(aryty.ndim)]
    strides: list[Any] = [ir.Constant(word, itemsize)]
    for extent in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], extent))
    data = builder.inttoptr(load(0), ary.data.type)
    populate_array(
        ary, data=data, shape=shape, strides=strides, itemsize=ir.Constant(word, itemsize),
        meminfo=None, parent=None,
    )  # fmt: skip
    return impl_ret_untracked(context, builder, aryty, ary._getvalue())
