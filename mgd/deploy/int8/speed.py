"""Which convolutions INT8 makes slower, by ONNX Runtime's profiles; and how much faster a whole model is."""

import json
import re
import tempfile
import time
from pathlib import Path

import numpy as np

from mgd.deploy.int8.qdq import Graph
from mgd.deploy.runtime import onnx_runner, session_of

LARGEST = 0.3  # of the float32 file: layers that stay in float32 for their speed fill no more
RUNS, ROUNDS = 5, 7  # of a model that is profiled; of models that are timed in turns


def slower_layers(graph: Graph, photo: np.ndarray) -> list[str]:
    """Convolutions that take more time in INT8, by both models' profiles; none where the whole gets slower.

    Where not all of them fit into `LARGEST`, those that gain most time for their weights.
    """
    everything = graph.quantised(())
    float32, int8 = _profile(graph.file.read_bytes(), photo), _profile(everything, photo)
    outputs = {node.name: {node.output[0]} for node in graph.nodes if node.op_type == "Conv"}
    for node in graph.nodes:  # ONNX Runtime calls a fused convolution by the output of its activation
        for tensors in outputs.values():
            if node.op_type in ("Relu", "Clip", "LeakyRelu") and node.input[0] in tensors:
                tensors.add(node.output[0])
    gains = {}
    for name, tensors in outputs.items():
        before = [float32[key] for tensor in tensors if (key := f"{tensor}_nchwc") in float32]
        after = [took for key, took in int8.items() if re.fullmatch(rf"{re.escape(name)}(_token_\d+)?", key)]
        if before and after and min(after) > min(before):
            gains[name] = min(after) - min(before)
    slower = that_fit(gains, graph.weights, LARGEST * graph.file.stat().st_size - len(everything))
    if not slower:
        return []
    times = best_times({"all": everything, "some": graph.quantised(slower)}, photo)
    return slower if times["some"] < times["all"] else []


def that_fit(gains: dict[str, int], weights: dict[str, int], room: float) -> list[str]:
    """The layers with most gain a byte, as long as they enlarge the INT8 file by no more than `room` bytes.

    Args:
        gains: microseconds.
        weights: bytes in float32.
    """
    chosen = []
    for name in sorted(gains, key=lambda name: -gains[name] / weights[name]):
        more = weights[name] * 3 / 4  # float32 in place of INT8
        if more <= room:
            chosen.append(name)
            room -= more
    return chosen


def best_times(models: dict[str, bytes], photo: np.ndarray) -> dict[str, float]:
    """Shortest milliseconds of each on one thread, run in turns: of that thread, so that other programs do not count.

    The first round warms up.
    """
    runners = {name: onnx_runner(model, Path(name), threads=1) for name, model in models.items()}
    found: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        for name, runner in runners.items():
            start = time.thread_time()
            runner.run(photo)
            found[name].append(1000 * (time.thread_time() - start))
    return {name: min(times[1:]) for name, times in found.items()}


def _profile(model: bytes, photo: np.ndarray) -> dict[str, int]:
    """Shortest time of every node in microseconds, one thread."""
    with tempfile.TemporaryDirectory() as folder:
        session = session_of(model, threads=1, profile=str(Path(folder) / "profile"))
        for _ in range(RUNS):
            session.run(None, {"image": photo})
        events = json.loads(Path(session.end_profiling()).read_text())
    found: dict[str, int] = {}
    for event in events:
        name, suffix = event["name"].removesuffix("_kernel_time"), "_kernel_time"
        if event.get("cat") == "Node" and event["name"].endswith(suffix):
            found[name] = min(event["dur"], found.get(name, event["dur"]))
    return found
