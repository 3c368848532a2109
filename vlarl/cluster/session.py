"""`--cluster ADDRESS`: joins or starts a Ray cluster and puts the roles on it. Loads ray only when asked to."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from math import ceil
from pathlib import Path

from vlarl.cluster.placement import check_store, make_placement
from vlarl.configs.roles import RolesConfig
from vlarl.configs.training import TrainConfig
from vlarl.envs.base import compute_max_turns, make_spec
from vlarl.errors import UserError
from vlarl.reporting.timeline import compute_waits, format_waits, write_trace
from vlarl.system import cpu_cores
from vlarl.training.roles import Parts

LOOPBACK = "127.0.0.2"
"""Ray binds the outer interface when it is told 127.0.0.1, and stays on the loopback device with this."""
CONNECT_SECONDS = 10.0
START_ATTEMPTS = 3
SPANS_SECONDS = 60.0
PLACE_SECONDS = 120.0
"""Longest wait until a cluster that has the resources has them free."""
DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Environment workers without a GPU of their own still draw on one.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A worker of a busy machine takes longer than 60 s to import its libraries.
    "RAY_worker_register_timeout_seconds": "600",
    # Ray would let its workers yield to everything else, and they are what computes.
    "RAY_worker_niceness": "0",
}
"""Ray's settings by environment variables, unless they are set."""


def check_installed() -> None:
    """Checks that the extra is there.

    Raises:
        UserError: it is not; the message is the install line.
    """
    if find_spec("ray") is None:
        raise UserError("--cluster needs Ray, which is not installed: pip install 'vlarl[cluster]'")


@contextmanager
def open_cluster(
    address: str, roles: RolesConfig, config: TrainConfig, timeline: Path, report: Callable[[str], None]
) -> Iterator["RayRoles"]:
    """Joins a cluster, or starts one on this machine, which ends with the block.

    Args:
        address: "auto" joins the cluster that RAY_ADDRESS names or that runs on this machine, else starts one here;
            "local" starts one here; host:port joins that one.
        roles: what to run there.
        config: of the run.
        timeline: file that gets a trace of every role's work (Chrome's format).
        report: told of what is lost and started again, and at the end of who waited for whom.

    Raises:
        UserError: Ray is not installed, nothing answers at the address, other versions there, too few GPUs or CPUs.
    """
    check_installed()
    os.environ |= {name: os.environ.get(name, value) for name, value in DEFAULTS.items()}
    import ray

    from vlarl.cluster.calls import accept_read_only_arrays

    accept_read_only_arrays()
    placement = make_placement(roles, config.env, 0)
    needed = sum(bundle["CPU"] for bundle in placement.bundles)
    _connect(address, needed)
    made = RayRoles(roles, report)
    try:
        made.reserve(config)
        yield made
        made.write_timeline(timeline)
    finally:
        made.close()
        ray.shutdown()


def _connect(address: str, cpus: float) -> None:
    import ray

    if address == "auto" and not os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
            return
        except (ConnectionError, RuntimeError):
            # None runs here, or one that has died left its address.
            address = "local"
    if address == "local":
        _start_here(cpus)
        return
    where = os.environ["RAY_ADDRESS"] if address == "auto" else address
    _require_listener(where)
    try:
        ray.init(address=where, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"cannot join the Ray cluster at {where}: {reason}") from error


def _start_here(cpus: float) -> None:
    import ray

    # The trainers meet where Ray is; workers inherit this.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # More roles than cores take turns: it is slower, and the result is the same.
    settings = {"num_cpus": max(cpu_cores(), ceil(cpus)), "_node_ip_address": LOOPBACK, "include_dashboard": False}
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(address="local", log_to_driver=False, logging_level="ERROR", **settings)
            return
        # Ray has no class of its own for processes that are not up after 30 s.
        except Exception as error:
            ray.shutdown()
            if attempt == START_ATTEMPTS:
                reason = str(error).strip().partition("\n")[0]
                raise UserError(
                    f"Ray did not start on this machine in {attempt} attempts ({reason}): the same command tries again"
                    " when it is less busy"
                ) from error


def _require_listener(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--cluster takes auto, local or HOST:PORT, got {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"nothing answers at {address} ({error}): `ray start --head --port {port}` starts a cluster on its first"
            " machine, `ray status` shows it"
        ) from error


class RayRoles:
    """Makes the parts of a training as actors."""

    def __init__(self, roles: RolesConfig, report: Callable[[str], None]) -> None:
        self.max_restarts = roles.max_restarts
        self._roles = roles
        self._report = report
        self._group = None
        self._made: list = []

    def reserve(self, config: TrainConfig) -> None:
        """Reserves the resources of all roles.

        Raises:
            UserError: the cluster has not as many, or others hold them.
        """
        import ray
        from ray.util.placement_group import placement_group

        have = ray.cluster_resources()
        self._placement = make_placement(self._roles, config.env, have.get("GPU", 0))
        bundles = list(self._placement.bundles)
        for kind in ("CPU", "GPU"):
            needed = sum(bundle.get(kind, 0) for bundle in bundles)
            if needed > have.get(kind, 0):
                raise UserError(
                    f"the roles need {needed:g} {kind}s, the cluster has {have.get(kind, 0):g}: start more nodes, or"
                    " ask for fewer (--roles.num-trainers, --roles.num-generators, --roles.envs-per-worker)"
                )
        check_store(config, compute_max_turns(config.env, make_spec(config.env)), have.get("object_store_memory", 0))
        self._group = placement_group(bundles, strategy="PACK")
        if not self._group.wait(PLACE_SECONDS):
            free = ray.available_resources()
            raise UserError(
                f"the cluster did not give the roles their resources in {PLACE_SECONDS:.0f} s: {len(bundles)} bundles,"
                f" free are {free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs. Is another run on it?"
            )

    def start(self, config: TrainConfig, policy_folder: Path, checkpoint: Path | None) -> Parts:
        """See Roles."""
        from vlarl.cluster.generators import RayGenerators
        from vlarl.cluster.trainers import RayLearner

        self._end_parts()
        learner = RayLearner(config, self._roles, self._group, self._placement)
        self._made.append(learner)
        generators = RayGenerators(
            config,
            self._roles,
            self._group,
            self._placement,
            lambda version: learner.publish(version, complete=True),
            self._report,
        )
        self._made.append(generators)
        learner.open(policy_folder, checkpoint)
        return Parts(
            learner=learner,
            collector=generators,
            generator=generators,
            restarted_episodes=lambda: generators.restarted_episodes,
            take_rates=generators.take_rates,
        )

    def write_timeline(self, path: Path) -> None:
        """Writes the trace of the roles that are alive, and reports their waits."""
        from vlarl.cluster.calls import fetch_all

        refs = [ref for part in self._made for ref in part.request_spans()]
        spans = [span for answer in fetch_all(refs, SPANS_SECONDS, "a role, asked for its spans,") for span in answer]
        if spans:
            write_trace(spans, path)
            for line in format_waits(compute_waits(spans)):
                self._report(line)

    def close(self) -> None:
        """Ends all actors and gives the resources back."""
        from ray.util.placement_group import remove_placement_group

        self._end_parts()
        if self._group is not None:
            remove_placement_group(self._group)

    def _end_parts(self) -> None:
        for part in self._made:
            part.close()
        self._made = []
