"""The picture of a sweep: mIoU of every row over the partitions."""

import math
from collections.abc import Sequence
from pathlib import Path

from mgd.extras import need
from mgd.figures import new_figure, save_figure, shown
from mgd.study.table import Result, share_name, spreads


def write_plot(path: Path, results: Sequence[Result]) -> None:
    """Write a PNG: a line a row, its mean and standard deviation over the seeds at every partition.

    Raises:
        UserError: matplotlib is not installed.
    """
    figure = new_figure(7, 4.5)
    found = spreads(results)
    partitions = sorted({partition for _, partition in found}, reverse=True)
    axes = figure.subplots()
    axes.set_prop_cycle(color=need("matplotlib").colormaps["tab20"](range(20)))
    for row in dict.fromkeys(row for row, _ in found):
        own = [p for p in partitions if (row, p) in found]
        means = [found[row, p].mean for p in own]
        sds = [0.0 if math.isnan(found[row, p].sd) else found[row, p].sd for p in own]
        axes.errorbar([partitions.index(p) for p in own], means, yerr=sds, marker="o", capsize=3, label=shown(row))
    axes.set_xticks(range(len(partitions)), [share_name(p) for p in partitions])
    axes.set_xlabel("share of the training photos with labels")
    axes.set_ylabel("mIoU in percent, ± standard deviation")
    axes.grid(alpha=0.3)
    if found:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    save_figure(figure, path)
