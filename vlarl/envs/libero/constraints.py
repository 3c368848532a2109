"""The constraints of one MjData: split into islands for solver.py, and its solution put back. Compiled.

An island is what constraints couple: kinematic trees (the robot, an object, a drawer) that share one of their rows.
"""

# ruff: noqa: ANN001, ANN201, ANN202
# Compiled functions get their types from the call; what each takes is said there.
import ctypes
from typing import NamedTuple

import mujoco
import numpy as np

from vlarl.envs.libero import library
from vlarl.envs.libero.island import FRICTION, LIMIT, Island, make_island
from vlarl.envs.libero.library import compiled_bare
from vlarl.envs.libero.solver import minimise
from vlarl.envs.libero.structs import c_struct

MAX_ROWS = 520
"""Not a power of two: columns so far apart would all want the same places of the processor's cache. With more rows,
MuJoCo's own solver is asked: the first moments of a scene whose objects all fall at once."""
DRY_FRICTION = int(mujoco.mjtConstraint.mjCNSTR_FRICTION_DOF)
JOINT_LIMIT = int(mujoco.mjtConstraint.mjCNSTR_LIMIT_JOINT)
FRICTIONLESS = int(mujoco.mjtConstraint.mjCNSTR_CONTACT_FRICTIONLESS)
ELLIPTIC = int(mujoco.mjtConstraint.mjCNSTR_CONTACT_ELLIPTIC)
_DATA = c_struct("mjData", last="efc_force")
_CONTACT = c_struct("mjContact")
_MODEL = c_struct("mjModel", last="opt")
_OPTION = c_struct("mjOption")
_FIELDS = (
    "efc_type", "efc_id", "efc_J_rownnz", "efc_J_rowadr", "efc_J_colind",
    "efc_J", "efc_D", "efc_frictionloss", "efc_aref", "efc_force",
)  # fmt: skip


class Constraints(NamedTuple):
    """What the solver takes of one MjData; make_constraints makes it."""

    num_rows: np.ndarray
    """[1] int32, the data's nefc."""
    pointers: tuple[np.ndarray, ...]
    """[1] uint64 each, addresses of the data's arrays in _FIELDS, which move."""
    arena: int
    """Address of what `words` and `numbers` show."""
    words: np.ndarray
    """int32, the data's arena; its contacts lie at the beginning."""
    numbers: np.ndarray
    """float64, the same memory."""
    layout: tuple[int, int, int, int]
    """A contact's size and the places of its friction and mu, in numbers, and of its dim, in words."""
    tolerance: np.ndarray
    """[1] the model's."""
    scale: float
    """MuJoCo's, of costs and gradients: one over the scene's mean inertia and its degrees of freedom."""
    tree: np.ndarray
    """[nv] int64, kinematic tree of each degree of freedom."""
    parent: np.ndarray
    """[nv] int64."""
    address: np.ndarray
    """[nv] int64, where a degree of freedom's row of the inertia matrix begins."""
    fields: tuple[np.ndarray, ...]
    """The data's qM, qacc, qacc_smooth, qacc_warmstart, qfrc_smooth and qfrc_constraint."""
    label: np.ndarray
    """[trees] int64 scratch: island of each tree, -1 where nothing acts."""
    column: np.ndarray
    """[nv] int64 scratch: number of a degree of freedom in its island."""
    dofs: np.ndarray
    """[nv] int64 scratch: those of an island."""
    rows: np.ndarray
    """[MAX_ROWS] int64 scratch: those of an island."""
    island: Island


def make_constraints(model: mujoco.MjModel, data: mujoco.MjData, island: Island | None = None) -> Constraints:
    """What compiled functions take of one MjData; those of one model, which take turns, may share an island.

    Raises:
        ValueError: the model has constraints that solver.py does not know, or options that it does not follow.
    """
    option = model.opt
    is_known = option.cone == mujoco.mjtCone.mjCONE_ELLIPTIC and option.solver == mujoco.mjtSolver.mjSOL_NEWTON
    if not is_known or option.noslip_iterations or model.neq or model.ntendon or model.nflex:
        raise ValueError(
            "the model's contacts are not elliptic or not solved by Newton steps, or it has more than contacts"
        )
    address = data._address
    arena = ctypes.c_void_p.from_address(address + _DATA.arena.offset).value
    words = np.ctypeslib.as_array((ctypes.c_int * (data.narena // 8 * 2)).from_address(arena))
    return Constraints(
        num_rows=np.ctypeslib.as_array(ctypes.c_int.from_address(address + _DATA.nefc.offset)).reshape(1),
        pointers=tuple(
            np.ctypeslib.as_array(ctypes.c_uint64.from_address(address + getattr(_DATA, name).offset)).reshape(1)
            for name in _FIELDS
        ),
        arena=arena,
        words=words,
        numbers=words.view(np.float64),
        layout=(
            ctypes.sizeof(_CONTACT) // 8,
            _CONTACT.friction.offset // 8,
            _CONTACT.mu.offset // 8,
            _CONTACT.dim.offset // 4,
        ),
        tolerance=np.ctypeslib.as_array(
            ctypes.c_double.from_address(model._address + _MODEL.opt.offset + _OPTION.tolerance.offset)
        ).reshape(1),
        scale=1.0 / (model.stat.meaninertia * max(1, model.nv)),
        tree=model.dof_treeid.astype(np.int64),
        parent=model.dof_parentid.astype(np.int64),
        address=model.dof_Madr.astype(np.int64),
        fields=(data.qM, data.qacc, data.qacc_smooth, data.qacc_warmstart, data.qfrc_smooth, data.qfrc_constraint),
        label=np.zeros(model.ntree, dtype=np.int64),
        column=np.zeros(model.nv, dtype=np.int64),
        dofs=np.zeros(model.nv, dtype=np.int64),
        rows=np.zeros(MAX_ROWS, dtype=np.int64),
        island=island or make_island(model.nv, MAX_ROWS),
    )  # fmt: skip


@compiled_bare
def solve_constraints(model, data, constraints):
    """mj_fwdConstraint: writes qacc, qacc_warmstart and qfrc_constraint."""
    _, qacc, smooth, warm_start, _, constraint_force = constraints.fields
    if constraints.num_rows[0] > MAX_ROWS:
        library.fwd_constraint(model, data)
        return
    for i in range(len(qacc)):
        qacc[i], constraint_force[i] = smooth[i], 0.0
    _find_islands(constraints)
    for island in range(len(constraints.label)):
        size = _collect_dofs(constraints, island)
        if size:
            num_rows = _collect_rows(constraints, island, size)
            minimise(constraints.island, size, num_rows, constraints.scale, constraints.tolerance[0])
            _put_back(constraints, size, num_rows)
    for i in range(len(qacc)):
        warm_start[i] = qacc[i]


@compiled_bare
def _find_islands(constraints):
    """Labels every tree that a row acts on with the lowest tree that it is coupled to."""
    label = constraints.label
    label[:] = -1
    _, _, nonzeros, addresses, columns = _int_fields(constraints)
    words, tree = constraints.words, constraints.tree
    for row in range(constraints.num_rows[0]):
        first = columns + words[addresses + row]
        # The columns rise, and a contact is between two trees at most.
        one, other = tree[words[first]], tree[words[first + words[nonzeros + row] - 1]]
        a, b = label[one], label[other]
        lowest = min(one if a < 0 else a, other if b < 0 else b)
        label[one] = label[other] = lowest
        for i in range(len(label)):
            if label[i] >= 0 and (label[i] == a or label[i] == b):
                label[i] = lowest


@compiled_bare
def _int_fields(constraints):
    """Where the integer arrays of _FIELDS begin in `words`."""
    pointers, arena = constraints.pointers, constraints.arena
    return (
        (np.int64(pointers[0][0]) - arena) // 4,
        (np.int64(pointers[1][0]) - arena) // 4,
        (np.int64(pointers[2][0]) - arena) // 4,
        (np.int64(pointers[3][0]) - arena) // 4,
        (np.int64(pointers[4][0]) - arena) // 4,
    )


@compiled_bare
def _float_fields(constraints):
    """Where the other arrays of _FIELDS begin in `numbers`."""
    pointers, arena = constraints.pointers, constraints.arena
    return (
        (np.int64(pointers[5][0]) - arena) // 8,
        (np.int64(pointers[6][0]) - arena) // 8,
        (np.int64(pointers[7][0]) - arena) // 8,
        (np.int64(pointers[8][0]) - arena) // 8,
        (np.int64(pointers[9][0]) - arena) // 8,
    )


@compiled_bare
def _collect_dofs(constraints, label):
    """Copies the inertia and accelerations of an island's trees; returns its degrees of freedom."""
    inertia, _, smooth, warm_start, smooth_force, _ = constraints.fields
    island, column, size = constraints.island, constraints.column, 0
    for dof in range(len(constraints.tree)):
        if constraints.label[constraints.tree[dof]] != label:
            continue
        constraints.dofs[size], column[dof] = dof, size
        for other in range(size):
            island.mass[size, other] = island.mass[other, size] = 0.0
        address, ancestor = constraints.address[dof], dof
        while ancestor >= 0:
            # Ancestors come before, in the same tree.
            other = column[ancestor]
            island.mass[size, other] = island.mass[other, size] = inertia[address]
            address, ancestor = address + 1, constraints.parent[ancestor]
        island.smooth[size], island.smooth_force[size] = smooth[dof], smooth_force[dof]
        island.solution[size] = warm_start[dof]
        size += 1
    return size


@compiled_bare
def _collect_rows(constraints, label, size):
    """Copies the rows of an island; returns their number."""
    kinds, ids, nonzeros, addresses, columns = _int_fields(constraints)
    jac, stiffness, friction_loss, target, _ = _float_fields(constraints)
    words, numbers, island = constraints.words, constraints.numbers, constraints.island
    count, rest = 0, 0
    for row in range(constraints.num_rows[0]):
        address = words[addresses + row]
        if constraints.label[constraints.tree[words[columns + address]]] != label:
            continue
        for i in range(size):
            island.jac[i, count] = 0.0
        for i in range(address, address + words[nonzeros + row]):
            island.jac[constraints.column[words[columns + i]], count] = numbers[jac + i]
        constraints.rows[count] = row
        island.target[count], island.stiffness[count] = numbers[target + row], numbers[stiffness + row]
        kind = words[kinds + row]
        if kind == DRY_FRICTION:
            island.kind[count], island.scale[count] = FRICTION, numbers[friction_loss + row]
        elif kind == ELLIPTIC:
            size_of_contact, friction, mu, dim = constraints.layout
            contact = words[ids + row] * size_of_contact
            if rest == 0:
                rest = words[2 * contact + dim]
                island.kind[count], island.scale[count] = rest, numbers[contact + mu]
            else:
                island.scale[count] = numbers[contact + friction + words[2 * contact + dim] - rest - 1]
            rest -= 1
        else:
            island.kind[count] = LIMIT
        count += 1
    return count


@compiled_bare
def _put_back(constraints, size, num_rows):
    """Writes an island's accelerations and forces."""
    _, qacc, _, _, _, constraint_force = constraints.fields
    island, force = constraints.island, _float_fields(constraints)[4]
    for i in range(size):
        qacc[constraints.dofs[i]] = island.solution[i]
        total = 0.0
        for row in range(num_rows):
            total += island.jac[i, row] * island.force[row]
        constraint_force[constraints.dofs[i]] = total
    for row in range(num_rows):
        constraints.numbers[force + constraints.rows[row]] = island.force[row]
