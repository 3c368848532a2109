"""Metric sinks: what is on disk after a kill, a resume, and without an optional package."""

import json
import math
import sys
from types import SimpleNamespace

import pytest

from vlarl.errors import UserError
from vlarl.reporting.sinks import JsonlSink, TensorBoardSink, make_sinks, read_jsonl


def test_jsonl_keeps_every_bit_and_writes_valid_json(tmp_path):
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    row = {"a": 0.1 + 0.2, "b": 7, "c": math.nan, "d": math.inf}
    sink.log(row, 3)
    # On disk before close, and no NaN, which JSON does not know.
    text = sink.path.read_text()
    parsed = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert parsed == {"iteration": 3, "a": 0.1 + 0.2, "b": 7, "c": None, "d": None}
    assert list(parsed)[0] == "iteration"


def test_jsonl_resume_drops_later_rows_and_a_cut_line(tmp_path):
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    for step in range(5):
        sink.log({"value": step / 3}, step)
    with sink.path.open("a") as file:
        file.write('{"iteration": 5, "val')
    assert len(read_jsonl(sink.path)) == 5
    before = sink.path.read_text().splitlines()
    sink.truncate_after(2)
    sink.log({"value": 1.0}, 3)
    assert sink.path.read_text().splitlines() == [*before[:3], '{"iteration": 3, "value": 1.0}']
    sink.truncate_after(-1)
    assert sink.path.read_text() == ""


def test_jsonl_names_the_damaged_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 0}\nnonsense\n{"iteration": 1}\n')
    with pytest.raises(UserError, match="line 2"):
        read_jsonl(path)
    path.write_text("[1]\n")
    with pytest.raises(UserError, match="line 1 is not a JSON object"):
        read_jsonl(path)


def test_tensorboard_events(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorBoardSink(tmp_path)
    for step in range(4):
        sink.log({"charts/success_rate": step / 4, "note": "left out"}, step)
    sink.close()
    # A resumed process repeats step 2 and 3.
    sink = TensorBoardSink(tmp_path)
    sink.truncate_after(1)
    sink.log({"charts/success_rate": 1.0}, 2)
    sink.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["scalars"] == ["charts/success_rate"]
    assert [(e.step, e.value) for e in events.Scalars("charts/success_rate")] == [(0, 0.0), (1, 0.25), (2, 1.0)]


def test_tensorboard_does_without_tensorflow_and_torch(tmp_path):
    import subprocess

    code = (
        "import sys; from pathlib import Path; from vlarl.reporting.sinks import make_sinks;"
        f"sink = make_sinks(['tensorboard'], Path({str(tmp_path)!r}))[0]; sink.log({{'a': 1.0}}, 0); sink.close();"
        "print([m for m in ('tensorflow', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_missing_extra_names_the_install_line(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"pip install 'vlarl\[{name}\]'"):
        make_sinks(["jsonl", name], tmp_path)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_remote_sinks_send_rows(tmp_path, monkeypatch, name):
    calls = []
    run = SimpleNamespace(log=lambda row, step: calls.append((row, step)), finish=lambda: calls.append("finished"))
    module = SimpleNamespace(**vars(run), init=lambda **options: calls.append(options) or run)
    monkeypatch.setitem(sys.modules, name, module)
    (sink,) = make_sinks([name], tmp_path / "myrun")
    sink.log({"charts/success_rate": 0.5}, 4)
    sink.close()
    assert (calls[0]["project"], calls[0]["name"]) == ("vlarl", "myrun")
    assert calls[1:] == [({"charts/success_rate": 0.5}, 4), "finished"]


def test_unknown_sink_suggests_the_nearest(tmp_path):
    with pytest.raises(UserError, match="Did you mean 'tensorboard'"):
        make_sinks(["tensorbord"], tmp_path)
