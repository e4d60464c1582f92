"""Exported files and their PyTorch networks side by side: time, memory, size, agreement, mIoU."""

import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mgd.deploy.card import card_path, golden_path, read_card
from mgd.deploy.runtime import SUFFIXES, Runner, open_runner, torch_runner
from mgd.deploy.source import open_source
from mgd.deploy.timing import latencies
from mgd.errors import UserError
from mgd.figures import new_figure, save_figure, shown
from mgd.files import sha256_of
from mgd.models.photo import PhotoGraph
from mgd.parallel import peak_memory
from mgd.weights import checkpoint_file


@dataclass(frozen=True, kw_only=True)
class Row:
    """One file under one number of threads; agreement and mIoU are those of its card.

    Attributes:
        threads: 0: all cores.
        peak: memory of the process beyond what it had before it loaded the file, MiB.
    """

    name: str
    precision: str
    size: str
    threads: int
    median: float  # ms
    p95: float  # ms
    throughput: float  # photos/s
    peak: float
    megabytes: float
    agreement: float | None
    miou: float | None
    photos: int | None  # that the two were measured on: compare files of equal ones

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def benchmark(files: Sequence[Path], *, threads: Sequence[int] = (1, 0), runs: int = 30) -> list[Row]:
    """Measure each file in a process of its own, on the golden photo of its card; a checkpoint is measured in PyTorch,
    on the photo of the file that was exported from it, or else of the first one, whose mIoU is then not its own.

    Raises:
        UserError: a file is missing or has no card, or a checkpoint comes without an exported file.
    """
    files = [checkpoint_file(file) for file in files]
    cards = {file: read_card(file) for file in files if file.is_file()}
    for file in files:
        if file not in cards:
            raise UserError(f"{file} does not exist; name files that mgd export wrote, and checkpoints")
    first = next((file for file, card in cards.items() if card is not None), None)
    if first is None:
        raise UserError(f"{files[0]} has no card beside it; name at least one file that mgd export wrote")
    if bare := [file for file, card in cards.items() if card is None and file.suffix in SUFFIXES]:
        raise UserError(f"{bare[0]} has no card beside it; put the {card_path(bare[0]).name} there that came with it")
    spawn = multiprocessing.get_context("spawn")
    short = [file.name for file in files]
    rows = []
    for file in files:
        name = file.name if short.count(file.name) == 1 else str(file)
        exported = file if cards[file] is not None else _exported_from(file, cards)
        for count in threads:
            with spawn.Pool(1) as pool:  # peak memory is a process's: each gets a fresh one
                row = pool.apply(_measure, (file, name, exported or first, count, runs))
            rows.append(row if exported else replace(row, agreement=None, miou=None, photos=None))
    return rows


def _exported_from(checkpoint: Path, cards: Mapping[Path, dict[str, Any] | None]) -> Path | None:
    """The first file whose card says that it was made from this checkpoint."""
    own = sha256_of(checkpoint)
    return next((file for file, card in cards.items() if card and card["checkpoint"]["sha256"] == own), None)


def table(rows: Sequence[Row]) -> str:
    """For a terminal."""
    head = ("file", "precision", "photo", "threads", "median ms", "p95 ms", "photos/s", "peak MiB", "MB", "agrees %")
    lines: list[tuple[str, ...]] = [(*head, "mIoU", "of photos")]
    for r in rows:
        known = ["-" if v is None else f"{100 * v:.2f}" for v in (r.agreement, r.miou)]
        numbers = [f"{v:.1f}" for v in (r.median, r.p95, r.throughput, r.peak, r.megabytes)]
        lines.append((r.name, r.precision, r.size, str(r.threads or "all"), *numbers, *known, str(r.photos or "-")))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """mIoU (agreement where no labels were there) against latency with the fewest threads, as PNG."""
    chosen = [row for row in rows if row.threads == rows[0].threads]
    scored = any(row.miou is not None for row in chosen)
    figure = new_figure(6, 4)
    axes = figure.subplots()
    for row in chosen:
        value = row.miou if scored else row.agreement
        if value is not None:
            axes.scatter(row.median, 100 * value, label=shown(row.name))
    axes.set(xlabel=f"ms a photo, threads: {rows[0].threads or 'all'}")
    axes.set_ylabel("mIoU, %" if scored else "pixels as in PyTorch, %")
    axes.margins(0.2)
    axes.set_xlim(left=0)
    axes.legend()
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def _measure(file: Path, name: str, exported: Path, threads: int, runs: int) -> Row:
    """In a fresh process. `exported` has a card: the file itself; of a checkpoint the one that it is held beside."""
    import torch

    torch.set_num_threads(threads or torch.get_num_threads())
    card = read_card(exported)
    assert card is not None
    with np.load(golden_path(exported)) as golden:
        photo = golden["image"]
    before, is_checkpoint = peak_memory(), file != exported
    runner = _open(file, card) if is_checkpoint else open_runner(file, threads=threads)
    times = latencies(runner, photo, runs=runs)
    compared = card["comparison"]
    return Row(
        name=f"{name} (PyTorch)" if is_checkpoint else name,
        precision="float32" if is_checkpoint else card["precision"],
        size=f"{photo.shape[1]}x{photo.shape[2]}",
        threads=threads,
        median=round(float(np.median(times)), 2),
        p95=round(float(np.percentile(times, 95)), 2),
        throughput=round(1000 / float(times.mean()), 2),
        peak=round((peak_memory() - before) / 2**20, 1),
        megabytes=round((file.stat().st_size if is_checkpoint else card["bytes"]) / 1e6, 2),
        agreement=1.0 if is_checkpoint else compared["agreement"],
        miou=compared["miou_pytorch" if is_checkpoint else "miou"],
        photos=compared["photos"],
    )


def _open(checkpoint: Path, card: dict[str, Any]) -> Runner:
    network = open_source(checkpoint).network
    return torch_runner(PhotoGraph(network, short_side=card["short_side"]).eval(), None)
