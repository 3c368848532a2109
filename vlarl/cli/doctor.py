"""`vlarl doctor`: is this machine fit, and what to install where it is not."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from vlarl.cli.options import parse, print_json
from vlarl.configs.openvla import OpenVLAConfig, OpenVLAPolicyConfig
from vlarl.configs.training import ValueKind
from vlarl.doctor import Check, run_checks, run_libero_checks, run_simulator_check
from vlarl.reporting.progress import Console

if TYPE_CHECKING:
    from vlarl.training.memory import MemoryPlan


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Checks Python, packages, rendering, memory and disk; exits with 3 if a system library is missing, 2 if else."""

    policy: str | None = None
    """Plan the GPU memory of training this policy: openvla-7b, or a folder with an OpenVLA config.json and weights."""
    gpus: int = 8
    """GPUs of the plan: all but one train, one decodes."""
    gpu_memory: float = 80.0
    """Memory of one GPU of the plan, GB (10^9 bytes)."""
    value: ValueKind = "homogeneous"
    """Value network that is trained beside the policy, of the plan."""
    libero: bool = False
    """Compare physics and frames with upstream's LIBERO too, on one task per suite (a few minutes)."""
    suites: tuple[str, ...] = ()
    """Compare every task of these suites with the recorded table of settled starts and frames, building those that are
    missing (20 s each); without it the tasks that are built."""
    json: bool = False
    """Print the checks as JSON."""


def main(command: str, argv: Sequence[str]) -> int:
    """Prints the checks; the exit code says whether all passed."""
    options = parse(DoctorOptions, argv, command)
    if options.policy is not None:
        return _plan(options)
    checks = []
    for check in _run(options):
        checks.append(check)
        if not options.json:
            print(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.detail}", flush=True)
            if not check.ok:
                print(f"     fix: {check.fix}", flush=True)
    if options.json:
        print_json([asdict(check) for check in checks])
    return max((check.exit_code for check in checks), default=0)


def _run(options: DoctorOptions) -> Iterator[Check]:
    checks = run_checks()
    yield from checks
    # Without rendering the simulator cannot even be loaded.
    if all(check.ok for check in checks if check.name in ("packages", "rendering")):
        yield run_simulator_check(options.suites)
        if options.libero:
            yield from run_libero_checks()


def _plan(options: DoctorOptions) -> int:
    """Prints the memory of training on GPUs; 2 if no micro-batch fits."""
    from vlarl.training.memory import measure_step, plan_memory

    policy = OpenVLAPolicyConfig(checkpoint=options.policy or "", gradient_checkpointing=True)
    sizes = OpenVLAConfig()
    if options.policy != "openvla-7b":
        from vlarl.policies.openvla.checkpoint import open_checkpoint

        sizes = open_checkpoint(policy.checkpoint).config
    Console().line("counting a training step on fake tensors, about a minute")
    step = measure_step(sizes, policy, options.value)
    plan = plan_memory(step, gpus=options.gpus, gpu_memory_gb=options.gpu_memory)
    if options.json:
        print_json(asdict(plan) | {"largest_microbatch": plan.largest_microbatch})
    else:
        print("\n".join(_plan_lines(options, plan)))
    return 0 if plan.largest_microbatch else 2


def _plan_lines(options: DoctorOptions, plan: "MemoryPlan") -> list[str]:
    def line(label: str, size: int) -> str:
        return f"  {label:<60}{size / 1e9:9.2f} GB"

    shared = plan.num_trainers == 0
    sharded = ", sharded" if plan.num_trainers > 1 else ""
    rows = [
        f"{options.policy}, LoRA, {options.value} value network, gradient checkpointing, {options.gpus} GPUs of"
        f" {options.gpu_memory:g} GB ({plan.usable / 1e9:.1f} GB usable)",
        "one GPU trains and decodes:" if shared else f"each of {plan.num_trainers} trainers:",
        line(f"frozen weights, bfloat16{sharded}", plan.frozen_weights),
        line(f"policy: LoRA, gradients, Adam, float32{sharded}", plan.policy_training),
        line(f"value network: trained weights, gradients, Adam{sharded}", plan.value_training),
        line("activations of a step, whatever the micro-batch", plan.activations_fixed),
        line("activations for each turn of the micro-batch", plan.activations_per_turn),
    ]
    sizes = [size for size in (1, 4, 16, 64) if size < plan.largest_microbatch]
    rows += [
        line(f"peak with micro-batch {size}", plan.step_bytes(size) + plan.beside)
        for size in (*sizes, plan.largest_microbatch)
        if size
    ]
    rows += [
        f"largest micro-batch: {plan.largest_microbatch} turns",
        "the generator beside it:" if shared else "the generator, on the last GPU:",
        line("fused projections" if shared else "weights, adapters, fused projections", plan.generator_weights),
        line("key-value cache per observation", plan.kv_cache_per_environment),
        f"most observations decoded at once: {plan.largest_generation_batch}",
    ]
    if not plan.largest_microbatch:
        rows.append("nothing fits: take more GPUs, --value frozen or --value small")
    return rows
