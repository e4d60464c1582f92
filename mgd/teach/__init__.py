"""Frozen teachers look at every training photo once; what their student's losses need of it is stored."""

from mgd.teach.export import export
from mgd.teach.store import Estimate, estimate, teach
from mgd.teach.teacher import Teacher, open_teachers

__all__ = ["Estimate", "Teacher", "estimate", "export", "open_teachers", "teach"]
