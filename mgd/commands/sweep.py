"""Train a grid of runs (row x partition x seed) and tabulate their scores."""

import argparse
import shlex
from dataclasses import replace
from pathlib import Path

from mgd.errors import UserError
from mgd.study import Sweep


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a sweep file: Python with sweep = Sweep(...) (docs/sweep.md)")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes of the base experiment")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default 1); they share cores and GPUs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table's figures here as well")
    parser.add_argument("--reference", metavar="ROW", help="hold the others against this row, not the sweep's own")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="tell the runs and whether they are done; train nothing")
    instead.add_argument("--table", action="store_true", help="make the tables of what is done; train nothing")
    instead.add_argument("--only", metavar="NAME", help="train one of the runs, as a task of a job array does")
    instead.add_argument(
        "--slurm", nargs="?", const="", metavar="OPTIONS", help="write job arrays; options of sbatch for a run"
    )


def run(options: argparse.Namespace) -> int:
    """Returns 1 when a run has no score, else 0."""
    from mgd.engine.log import log_to_terminal
    from mgd.study.plan import check, check_folders, plan, why_failed
    from mgd.study.run import locked, run_all, run_one
    from mgd.study.slurm import write_script
    from mgd.study.sweep import load_sweep

    if options.jobs < 1:
        raise UserError(f"--jobs {options.jobs} must be 1 or more")
    if options.slurm and not options.slurm.startswith("-"):
        raise UserError(
            f'--slurm takes options of sbatch, found {options.slurm}; write --slurm="--gres=gpu:1", or --slurm last'
        )
    sweep = load_sweep(options.file, options.overrides)
    if options.reference:
        sweep = replace(sweep, reference=options.reference)
    cells, folder = plan(sweep), Path(sweep.folder)
    if options.list:
        for cell in cells:
            after = f" after {', '.join(cell.waits_for)}" if cell.waits_for else ""
            print(f"{'done' if cell.is_done else 'open'}  {cell.name}{after}")
        return 0
    log_to_terminal(main=True)
    if options.table:
        check_folders(cells)
        _tabulate(options, cells, sweep, {cell.name: told for cell in cells if (told := why_failed(cell))})
        return 0
    check(cells)
    if options.only is not None:
        chosen = next((cell for cell in cells if cell.name == options.only), None)
        if chosen is None:
            raise UserError(f"--only {options.only} is no run of {options.file}; --list tells them")
        run_one(chosen, cells, str(options.file))
        return 0
    if options.slurm is not None:
        command = [str(options.file.resolve()), *options.overrides]
        script = write_script(cells, command, folder, options.slurm)
        print(f"written; start it with: bash {shlex.quote(str(script))}")
        return 0
    with locked(folder, what="sweep"):
        failed = run_all(cells, str(options.file), jobs=options.jobs)
        _tabulate(options, cells, sweep, failed)
    return int(bool(failed))


def _tabulate(options: argparse.Namespace, cells: list, sweep: Sweep, failed: dict[str, str]) -> None:
    """Rows in the order of the sweep file."""
    from mgd.study.plot import write_plot
    from mgd.study.table import read_results, write_tables

    rows, folder = list(sweep.rows), Path(sweep.folder)
    cells = sorted(cells, key=lambda cell: rows.index(cell.row))
    reference = sweep.reference or rows[0]
    print(write_tables(folder, cells, reference, failed, json_file=options.json))
    print(f"tables: {folder / 'results.md'}, .csv, .json")
    try:
        write_plot(folder / "results.png", read_results(cells))
        print(f"plot: {folder / 'results.png'}")
    except UserError as error:
        print(f"no plot: {error}")
