"""MuJoCo's C structures, for what its Python bindings do not reach."""

import ctypes

import numpy as np
from mujoco.introspect import ast_nodes, structs

_C_TYPES = {
    "int": ctypes.c_int,
    "mjtNum": ctypes.c_double,
    "size_t": ctypes.c_size_t,
    "mjtByte": ctypes.c_ubyte,
    # From 3.4.0, which `vlarl doctor` has to be able to compare.
    "mjtSize": ctypes.c_int64,
}


def _c_type(declared: object) -> type:
    """The ctypes type of a field, as MuJoCo's own description of its headers has it."""
    if isinstance(declared, ast_nodes.ArrayType):
        return _c_type(declared.inner_type) * int(np.prod(declared.extents))
    if isinstance(declared, ast_nodes.PointerType):
        return ctypes.c_void_p
    name = declared.name
    return _C_TYPES[name] if name in _C_TYPES else c_struct(name)


def c_struct(name: str, last: str | None = None) -> type[ctypes.Structure]:
    """The ctypes structure of a MuJoCo struct, with the fields up to `last`."""
    fields = []
    for field in structs.STRUCTS[name].fields:
        fields.append((field.name, _c_type(field.type)))
        if field.name == last:
            break
    return type(name, (ctypes.Structure,), {"_fields_": fields})
