"""The constraint solver of the fast stepping: MuJoCo's problem and method, for one island at a time. Compiled.

Which acceleration a follows from forces and contacts is a convex problem (MuJoCo's documentation, "Computation", Soft
constraint model; Todorov 2014): a minimises (a - smooth)^T M (a - smooth) / 2 + sum s(J a - target), where s is zero or
a parabola (limits), a parabola with straight ends (dry friction), or a parabola over an elliptic friction cone
(contacts). It is solved as MuJoCo's "Newton" does: exact Hessian, exact line search.

MuJoCo sets up the whole scene at once, in matrices that are made for hundreds of degrees of freedom. Here is what is
coupled by contacts alone, mostly a robot with one object in its hand (15 degrees of freedom) in matrices without gaps,
and as it is small, the Hessian is made and factorised anew in each iteration, not updated by each contact.
"""

# ruff: noqa: ANN001, ANN201, ANN202
# Compiled functions get their types from the call; what each takes is said there.
import math

import numpy as np

from vlarl.envs.libero.island import FRICTION, LIMIT
from vlarl.envs.libero.library import compiled_loose

NUM_STEPS = 100
"""Newton steps, MuJoCo's own limit."""
NUM_SEARCHES = 50
"""Evaluations of a line search, MuJoCo's own limit."""
SLOPE = 1e-3
"""What a line search leaves of the slope. The last steps, where nothing changes sides, are exact anyway."""


@compiled_loose
def minimise(island, n, m, scale, tolerance):
    """Solves in place; `scale` makes costs and gradients comparable with `tolerance`. Returns the Newton steps done."""
    _multiply(island, island.solution, island.product, island.offset, n, m)
    for row in range(m):
        island.offset[row] -= island.target[row]
    cost = _evaluate(island, n, m)
    _write_gradient(island, n, m)
    # One step even where the guess is as good as asked for: a door that nears its stop would drift through it.
    for step in range(NUM_STEPS):
        _factorise_hessian(island, n, m)
        limit = SLOPE * _solve_direction(island, n)
        _multiply(island, island.direction, island.mass_direction, island.row_direction, n, m)
        _move(island, 1.0, n, m)
        last, cost = cost, _evaluate(island, n, m)
        norm = _write_gradient(island, n, m)
        if abs(_dot(island.gradient, island.direction, n)) > limit:
            _move(island, _search(island, n, m, limit), n, m)
            cost = _evaluate(island, n, m)
            norm = _write_gradient(island, n, m)
        # Written so that NaN ends it: mj_checkAcc tells of it.
        if not (scale * (last - cost) >= tolerance and scale * norm >= tolerance):
            return step + 1
    return NUM_STEPS


@compiled_loose
def _dot(one, other, n):
    total = 0.0
    for i in range(n):
        total += one[i] * other[i]
    return total


@compiled_loose
def _multiply(island, vector, product, rows, n, m):
    """Writes M and J times a vector [n]."""
    for i in range(n):
        product[i] = _dot(island.mass[i], vector, n)
    for row in range(m):
        rows[row] = 0.0
    for i in range(n):
        value = vector[i]
        for row in range(m):
            rows[row] += value * island.jac[i, row]


@compiled_loose
def _move(island, length, n, m):
    """Goes along the direction."""
    for i in range(n):
        island.solution[i] += length * island.direction[i]
        island.product[i] += length * island.mass_direction[i]
    for row in range(m):
        island.offset[row] += length * island.row_direction[row]


@compiled_loose
def _evaluate(island, n, m):
    """Writes forces and weights at `offset`; returns the cost."""
    x, force, weight, stiffness, scale = island.offset, island.force, island.weight, island.stiffness, island.scale
    cost, row = 0.0, 0
    for i in range(n):
        cost += 0.5 * (island.product[i] - island.smooth_force[i]) * (island.solution[i] - island.smooth[i])
    while row < m:
        kind = island.kind[row]
        if kind > LIMIT:
            cost += _evaluate_contact(island, row, kind)
            row += kind
            continue
        force[row], weight[row] = 0.0, 0.0
        bound = scale[row] / stiffness[row]
        if kind == FRICTION and abs(x[row]) >= bound:
            cost += scale[row] * (abs(x[row]) - 0.5 * bound)
            force[row] = -scale[row] if x[row] > 0.0 else scale[row]
        elif kind == FRICTION or x[row] < 0.0:
            cost += 0.5 * stiffness[row] * x[row] * x[row]
            force[row], weight[row] = -stiffness[row] * x[row], stiffness[row]
        row += 1
    return cost


@compiled_loose
def _evaluate_contact(island, row, dim):
    """Of one contact's rows: it is open, sticks (every row a parabola), or slides on its cone."""
    x, force, weight, stiffness, scale = island.offset, island.force, island.weight, island.stiffness, island.scale
    mu, normal, squares = scale[row], x[row] * scale[row], 0.0
    for i in range(row + 1, row + dim):
        squares += (x[i] * scale[i]) ** 2
    tangent = math.sqrt(squares)
    for i in range(row, row + dim):
        force[i], weight[i] = 0.0, 0.0
    if normal >= mu * tangent:
        return 0.0
    cost = 0.0
    if mu * normal + tangent <= 0.0:
        for i in range(row, row + dim):
            cost += 0.5 * stiffness[i] * x[i] * x[i]
            force[i], weight[i] = -stiffness[i] * x[i], stiffness[i]
        return cost
    curvature = stiffness[row] / (mu * mu * (1.0 + mu * mu))
    depth = normal - mu * tangent
    weight[row] = -1.0
    force[row] = -curvature * depth * mu
    for i in range(row + 1, row + dim):
        force[i] = -force[row] / tangent * x[i] * scale[i] * scale[i]
    return 0.5 * curvature * depth * depth


@compiled_loose
def _write_gradient(island, n, m):
    """Writes the gradient; returns its norm."""
    gradient = island.gradient
    for i in range(n):
        gradient[i] = island.product[i] - island.smooth_force[i] - _dot(island.jac[i], island.force, m)
    return math.sqrt(_dot(gradient, gradient, n))


@compiled_loose
def _factorise_hessian(island, n, m):
    """Writes the Cholesky factor of M + J^T W J, its diagonal inverted."""
    factor, jac, curved = island.factor, island.jac, island.curved
    for i in range(n):
        for row in range(m):
            curved[i, row] = island.weight[row] * jac[i, row]
    row = 0
    while row < m:
        if island.weight[row] < 0.0:
            _curve_sliding(island, row, n)
        row += max(1, island.kind[row])
    for i in range(n):
        for k in range(i + 1):
            factor[i, k] = island.mass[i, k] + _dot(curved[i], jac[k], m)
    for i in range(n):
        for j in range(i):
            total = factor[i, j]
            for k in range(j):
                total -= factor[i, k] * factor[j, k]
            factor[i, j] = total * factor[j, j]
        total = factor[i, i]
        for k in range(i):
            total -= factor[i, k] * factor[i, k]
        factor[i, i] = 1.0 / math.sqrt(total)


@compiled_loose
def _curve_sliding(island, row, n):
    """Writes the curvature of a contact that slides times J."""
    x, scale, cone, dim = island.offset, island.scale, island.cone, island.kind[row]
    mu, normal, squares = scale[row], x[row] * scale[row], 0.0
    for i in range(1, dim):
        squares += (x[row + i] * scale[row + i]) ** 2
    tangent = math.sqrt(squares)
    curvature = island.stiffness[row] / (mu * mu * (1.0 + mu * mu))
    along = mu * normal / (squares * tangent)
    cone[0, 0] = curvature * mu * mu
    for i in range(1, dim):
        first, weight = x[row + i] * scale[row + i], curvature * scale[row + i]
        cone[i, 0] = cone[0, i] = -weight * mu * mu * first / tangent
        for k in range(1, dim):
            cone[i, k] = weight * scale[row + k] * along * first * x[row + k] * scale[row + k]
        cone[i, i] += weight * scale[row + i] * (mu * mu - mu * normal / tangent)
    for column in range(n):
        for i in range(dim):
            total = 0.0
            for k in range(dim):
                total += cone[i, k] * island.jac[column, row + k]
            island.curved[column, row + i] = total


@compiled_loose
def _solve_direction(island, n):
    """Writes the Newton direction; returns how steeply the cost falls along it."""
    factor, direction, fall = island.factor, island.direction, 0.0
    for i in range(n):
        total = -island.gradient[i]
        for k in range(i):
            total -= factor[i, k] * direction[k]
        direction[i] = total * factor[i, i]
        fall += direction[i] * direction[i]
    for i in range(n - 1, -1, -1):
        direction[i] *= factor[i, i]
        for k in range(i):
            direction[k] -= factor[i, k] * direction[i]
    return fall


@compiled_loose
def _search(island, n, m, limit):
    """How much farther to go along the direction, from the end of a full step, until the slope is within the limit."""
    direction = island.direction
    start = _dot(direction, island.product, n) - _dot(direction, island.smooth_force, n)
    curvature = _dot(direction, island.mass_direction, n)
    # A bracket: the slope rises, from below zero at `low` to above at `high`.
    low, high, length = -1.0, np.inf, 0.0
    for _ in range(NUM_SEARCHES):
        slope, bend = _slope(island, m, length)
        slope, bend = slope + start + length * curvature, bend + curvature
        if abs(slope) <= limit:
            return length
        if slope < 0.0:
            low = length
        else:
            high = length
        length -= slope / bend
        if not low < length < high:
            length = 0.5 * (low + high) if high < np.inf else 2.0 * low + 1.0
    return low


@compiled_loose
def _slope(island, m, length):
    """First and second derivative of the rows' cost along the direction."""
    x, v, stiffness, scale = island.offset, island.row_direction, island.stiffness, island.scale
    slope, bend, row = 0.0, 0.0, 0
    while row < m:
        kind = island.kind[row]
        if kind > LIMIT:
            first, second = _slope_of_contact(island, row, kind, length)
            slope, bend, row = slope + first, bend + second, row + kind
            continue
        value = x[row] + length * v[row]
        if kind == FRICTION and abs(value) >= scale[row] / stiffness[row]:
            slope += scale[row] * v[row] if value > 0.0 else -scale[row] * v[row]
        elif kind == FRICTION or value < 0.0:
            slope += stiffness[row] * value * v[row]
            bend += stiffness[row] * v[row] * v[row]
        row += 1
    return slope, bend


@compiled_loose
def _slope_of_contact(island, row, dim, length):
    """The same of one contact."""
    x, v, stiffness, scale = island.offset, island.row_direction, island.stiffness, island.scale
    mu = scale[row]
    normal, normal_slope = (x[row] + length * v[row]) * mu, v[row] * mu
    squares, mixed, speeds = 0.0, 0.0, 0.0
    for i in range(row + 1, row + dim):
        value, speed = (x[i] + length * v[i]) * scale[i], v[i] * scale[i]
        squares, mixed, speeds = squares + value * value, mixed + value * speed, speeds + speed * speed
    tangent = math.sqrt(squares)
    if normal >= mu * tangent:
        return 0.0, 0.0
    slope, bend = 0.0, 0.0
    if mu * normal + tangent <= 0.0:
        for i in range(row, row + dim):
            slope += stiffness[i] * (x[i] + length * v[i]) * v[i]
            bend += stiffness[i] * v[i] * v[i]
        return slope, bend
    curvature = stiffness[row] / (mu * mu * (1.0 + mu * mu))
    tangent_slope = mixed / tangent
    tangent_bend = (speeds - tangent_slope * tangent_slope) / tangent
    depth, depth_slope = normal - mu * tangent, normal_slope - mu * tangent_slope
    slope = curvature * depth * depth_slope
    return slope, curvature * (depth_slope * depth_slope - depth * mu * tangent_bend)
