"""Learning curves and confusion matrices as SVG text, by matplotlib."""

from collections.abc import Sequence

import numpy as np

from mgd.data.classes import Classes
from mgd.figures import new_figure, shown, svg
from mgd.report.runs import Run


def learning_curves(runs: Sequence[Run]) -> list[str]:
    """Total loss, mIoU on the validation list and learning rate against iterations, each where a run recorded it."""
    pictures = []
    for key, title, factor in (("loss/total", "loss", 1.0), ("miou", "mIoU, %", 100.0), ("lr", "learning rate", 1.0)):
        figure = new_figure(4.5, 3)
        axes = figure.subplots()
        for run in runs:
            points = [(line["step"], factor * line[key]) for line in run.metrics if line.get(key) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), label=shown(run.name), marker="." if len(points) < 30 else "")
        axes.set(xlabel="iteration", title=title)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=7)
            pictures.append(svg(figure))
    return pictures


def confusion(matrix: np.ndarray, classes: Classes, title: str) -> str:
    """(K,K) counts as shares of each row's label."""
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = 2.2 + 0.3 * len(classes)
    figure = new_figure(side, side)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ticks, names = range(len(classes)), [*map(shown, classes.names)]
    axes.set_xticks(ticks, names, rotation=90, fontsize=7)
    axes.set_yticks(ticks, names, fontsize=7)
    axes.set(title=shown(title), xlabel="prediction", ylabel="label")
    if len(classes) <= 25:
        for (y, x), value in np.ndenumerate(share):
            if value >= 0.05:
                color = "white" if value > 0.5 else "black"
                axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=6, color=color)
    return svg(figure)
