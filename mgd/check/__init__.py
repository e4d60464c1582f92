"""What can be wrong with an experiment's data, teachers and machine: found, all of it, before anything is trained."""

from collections import Counter
from collections.abc import Iterable

from mgd.check.files import read_files
from mgd.check.findings import Finding
from mgd.check.labels import first_labels
from mgd.check.lists import look_at_lists
from mgd.check.needs import (
    disk,
    evaluation_memory,
    largest,
    maps,
    memory,
    network,
    pack,
    shared_memory,
    start,
    teachers,
)
from mgd.config import Experiment
from mgd.data.classes import Classes
from mgd.data.datasets import Splits, collect_errors, open_splits
from mgd.data.items import Items
from mgd.errors import UserError

__all__ = ["Finding", "check", "quick_check", "table"]


def check(config: Experiment, *, progress: bool = True) -> list[Finding]:
    """Read every file of an experiment, on all cores, and look at all else that it needs."""
    problems: list[UserError] = []
    nothing = Items.of(())
    splits = Splits(Classes((), ()), nothing, nothing, nothing)
    with collect_errors(problems):
        splits = open_splits(config.data, problems)
    sizes = f"{len(splits.labeled):,} labelled, {len(splits.unlabeled):,} unlabelled, {len(splits.val):,} validation"
    found = [Finding("error", error.kind, str(error)) for error in problems]
    found += [] if problems else [Finding("ok", "lists", f"{sizes} images; {splits.source}")]
    if splits.labeled and splits.val:  # else what they are held against is not there
        found += look_at_lists(config, splits)
    files, cached = read_files(config.data, splits, progress=progress)
    learnt_from, frozen = teachers(config, splits.classes.names)
    found += [*files, *learnt_from, *maps(config, splits), *pack(config, splits), *start(config)]
    broken: list[UserError] = []
    with collect_errors(broken):
        model = network(config, len(splits.classes))
        found += [disk(config, model), *shared_memory(config, len(splits.classes))]
        if splits.classes:  # their number decides how large the logits are
            found += [memory(config, model, frozen, cached)]
            if any(size := largest(splits.val, config.data.short_side)):
                found += [evaluation_memory(config, model, size)]
    found += [Finding("error", "network", str(error)) for error in broken]
    return [*dict.fromkeys(found)]  # nothing twice


def quick_check(config: Experiment, splits: Splits) -> list[Finding]:
    """What can be told without reading an image, but for a few labels: done by every training run at its start."""
    classes = len(splits.classes)
    needs = disk(config, network(config, classes)), *shared_memory(config, classes)
    return [*look_at_lists(config, splits), *first_labels(config.data, splits), *needs]


def table(findings: Iterable[Finding]) -> str:
    """One row a finding, and how many there are of each level."""
    findings = list(findings)
    rows = [f"{level:<8} {subject:<13} {text}" for level, subject, text in findings]
    counts = Counter(finding.level for finding in findings)
    return "\n".join([*rows, f"{counts['error']} errors, {counts['warning']} warnings"])
