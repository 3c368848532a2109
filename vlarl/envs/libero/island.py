"""What solver.py works on: the constraints of what is coupled, in small matrices without gaps."""

from typing import NamedTuple

import numpy as np

FRICTION = 0
"""Kind of rows: dry friction of a joint."""
LIMIT = 1
"""Kind of rows: force in one direction only. Kinds above are the first of so many rows of an elliptic contact."""


class Island(NamedTuple):
    """One island's problem, and room for its solution; n degrees of freedom and m rows of at most N and R.

    All float64 unless said. The first five fields of a row and the first three of a degree of freedom are given.
    """

    jac: np.ndarray
    """[N, R] J, transposed: sums over rows are what takes time."""
    target: np.ndarray
    """[R] acceleration that a row aims at."""
    stiffness: np.ndarray
    """[R] curvature of the parabola, MuJoCo's D."""
    scale: np.ndarray
    """[R] of contacts: mu in the first row, then the friction coefficients. Of FRICTION: the largest force."""
    kind: np.ndarray
    """[R] int64, FRICTION, LIMIT, or the number of a contact's rows in its first row."""
    mass: np.ndarray
    """[N, N] M."""
    smooth_force: np.ndarray
    """[N] M times `smooth`."""
    smooth: np.ndarray
    """[N] acceleration without constraints."""
    solution: np.ndarray
    """[N] a: first the guess, then the solution."""
    force: np.ndarray
    """[R] of the solution; J^T force is that of the constraints."""
    product: np.ndarray
    """[N] M a."""
    offset: np.ndarray
    """[R] J a - target."""
    weight: np.ndarray
    """[R] curvature at a: stiffness or 0; in a contact that slides, -1 in the first row."""
    gradient: np.ndarray
    """[N] of the cost at a."""
    direction: np.ndarray
    """[N] of the search."""
    mass_direction: np.ndarray
    """[N] M times it."""
    row_direction: np.ndarray
    """[R] J times it."""
    factor: np.ndarray
    """[N, N] Hessian, then its Cholesky factor; lower triangle."""
    cone: np.ndarray
    """[6, 6] curvature of one contact."""
    curved: np.ndarray
    """[N, R] the curvatures times J, transposed."""


def make_island(size: int, num_rows: int) -> Island:
    """Room for up to `size` degrees of freedom and `num_rows` rows."""
    shapes = {
        "jac": (size, num_rows),
        "curved": (size, num_rows),
        "mass": (size, size),
        "factor": (size, size),
        "cone": (6, 6),
    }
    of_dofs = {"smooth_force", "smooth", "solution", "product", "gradient", "direction", "mass_direction"}
    shapes |= {name: (size if name in of_dofs else num_rows,) for name in Island._fields if name not in shapes}
    return Island(
        **{name: np.zeros(shapes[name], dtype=np.int64 if name == "kind" else np.float64) for name in Island._fields}
    )
