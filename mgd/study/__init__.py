"""Studies: a grid of runs that are compared; what a sweep file defines."""

from mgd.study.sweep import Row, Sweep

__all__ = ["Row", "Sweep"]
