"""A sweep as job arrays of Slurm: one for each generation of runs, which starts when the one before has ended."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mgd.files import write_lines, write_text
from mgd.study.plan import Cell

SCRIPT = """#!/usr/bin/env bash
# Submits the runs of {sweep} that are not done: bash {file}
# Each array starts when the one before has ended, whatever became of its runs; a run whose teacher has none says so.
set -euo pipefail
cd {here}
after=()
{arrays}
"""
ARRAY = """\
job=$(sbatch --parsable --job-name=mgd-{number} --array=0-{last} --output={logs}/%A-%a.txt "${{after[@]}}" {options} \\
  --wrap={wrap})
echo "generation {number}: job array ${{job%%;*}}, {count} runs"
after=(--dependency=afterany:"${{job%%;*}}" --kill-on-invalid-dep=no)"""


def generations(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells that are not done, in groups that can run at the same time; a group needs the ones before it."""
    depth: dict[str, int] = {}
    for cell in cells:  # each after those that it waits for
        if not cell.is_done:
            depth[cell.name] = 1 + max((depth.get(name, -1) for name in cell.waits_for), default=-1)
    count = max(depth.values(), default=-1) + 1
    return [[cell for cell in cells if depth.get(cell.name) == level] for level in range(count)]


def write_script(cells: Sequence[Cell], sweep: Sequence[str], folder: Path, options: str) -> Path:
    """Write <folder>/slurm/submit.sh, and a list of runs for each array.

    Args:
        sweep: the sweep file and the changes of its base.
        options: those of sbatch for one run, such as "--partition=gpu --gres=gpu:1 --time=4:00:00".
    """
    home, arrays = (folder / "slurm").resolve(), []
    for number, group in enumerate(generations(cells)):
        names = home / f"generation-{number}.txt"
        write_lines(names, (cell.name for cell in group))
        run = f"{shlex.quote(sys.executable)} -m mgd sweep {shlex.join(sweep)} --only"
        wrap = f'{run} "$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(names))})"'
        arrays.append(
            ARRAY.format(
                number=number,
                last=len(group) - 1,
                count=len(group),
                logs=shlex.quote(str(home)),
                options=options,
                wrap=shlex.quote(wrap),
            )
        )
    path, here = folder / "slurm/submit.sh", shlex.quote(str(Path.cwd()))
    write_text(path, SCRIPT.format(sweep=shlex.join(sweep), file=path, here=here, arrays="\n".join(arrays)))
    return path
