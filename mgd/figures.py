"""Matplotlib figures without a window, and how they become a PNG file or SVG text."""

import argparse
import io
from pathlib import Path
from typing import Any

from mgd.extras import need
from mgd.files import write_bytes


def png(text: str) -> Path:
    """The path of a picture that an option asks for. Raises ArgumentTypeError where its name says that it is no PNG."""
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"{text}: pictures are PNG files; name it {path.with_suffix('.png')}")
    return path


def new_figure(width: float, height: float) -> Any:
    """An empty `matplotlib.figure.Figure`, sides in inches. Raises UserError where matplotlib is not installed."""
    return need("matplotlib.figure", extra="report").Figure(figsize=(width, height), layout="constrained")


def shown(text: str) -> str:
    """Somebody's name as matplotlib draws it: dollars are no formulas, and a first underscore hides nothing."""
    return f"{' ' * text.startswith('_')}{text}".replace("$", r"\$")


def save_figure(figure: Any, path: Path) -> None:
    """Write a PNG, atomically."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_bytes(path, content.getvalue())


def svg(figure: Any) -> str:
    """An <svg> element that is the same each time."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
