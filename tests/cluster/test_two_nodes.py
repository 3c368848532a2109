"""Two Ray nodes on this machine, one of which is lost while it works: the results are those of one process."""

import json
import sys
import time

import pytest

pytest.importorskip("ray", reason="needs vlarl[cluster]")
psutil = pytest.importorskip("psutil")

from tests.cluster.test_ray_training import assert_gone, finish, rows, start, wait_for_rows, weights  # noqa: E402

NODES = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "node_ip_address": "127.0.0.2"})
nodes = [cluster.add_node(num_cpus=cpus, node_ip_address=f"127.0.0.{3 + i}") for i, cpus in enumerate((2, 2))]
print(cluster.address, flush=True)
for line in sys.stdin:
    if line.strip() == "lose":
        cluster.remove_node(nodes[0], allow_graceful=False)
        cluster.add_node(num_cpus=2, node_ip_address="127.0.0.5")
    else:
        break
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_lost_node(tmp_path, monkeypatch):
    import subprocess

    for name, value in {"RAY_AUTH_MODE": "disabled", "GLOO_SOCKET_IFNAME": "lo", "RAY_worker_niceness": "0"}.items():
        monkeypatch.setenv(name, value)
    finish(start(tmp_path / "alone"))
    nodes = subprocess.Popen([sys.executable, "-c", NODES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        address = nodes.stdout.readline().strip()
        process = start(tmp_path / "run", "--cluster", address)
        wait_for_rows(tmp_path / "run", 1, process)
        nodes.stdin.write("lose\n")
        nodes.stdin.flush()
        finish(process)
        family = psutil.Process(nodes.pid).children(recursive=True)
        nodes.stdin.write("end\n")
        nodes.stdin.flush()
        nodes.wait(timeout=120)
    finally:
        nodes.kill()
        nodes.communicate()
    assert rows(tmp_path / "run") == rows(tmp_path / "alone")
    assert weights(tmp_path / "run") == weights(tmp_path / "alone")
    started = time.monotonic()
    assert_gone(family)
    assert time.monotonic() - started < 60
    assert json.loads((tmp_path / "run" / "rl" / "train.json").read_text())["iteration"] == 3
