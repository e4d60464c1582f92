"""The command line: `mgd COMMAND ...`; `mgd/commands/` has a file for each."""

import argparse
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from mgd.errors import Stopped, UserError, is_out_of_memory, no_memory, sentence

COMMANDS = (  # in the order of `mgd --help`
    *("check", "fit", "teach", "train", "evaluate", "compare", "sweep", "report"),
    *("predict", "export", "verify", "benchmark", "profile", "import", "prepare", "pack", "new", "partition"),
)

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: not done, try again


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status.

    0: done. 1: `check` found errors, a run of a sweep failed. 2: bad input, told in one sentence. 75: a signal stopped
    a run. 130: Ctrl-C.
    """
    given = sys.argv[1:] if arguments is None else arguments
    # The command's own file alone is imported: `mgd verify` runs where there is no PyTorch.
    parser = build_parser(given[:1] if given[:1] and given[0] in COMMANDS else COMMANDS)
    options, rest = parser.parse_known_args(given)
    # argparse cannot take the overrides itself when options stand between them.
    overrides = [text for text in rest if "=" in text and not text.startswith("-")]
    if unknown := [text for text in rest if text not in overrides]:
        parser.error(f"unknown argument {unknown[0]}")
    if hasattr(options, "overrides"):
        options.overrides = [*options.overrides, *overrides]
    elif overrides:
        parser.error(f"{options.command} takes no overrides, found {overrides[0]}")
    try:
        return options.run(options) or 0
    except UserError as error:
        if options.debug:
            raise
        _tell(f"mgd {options.command}: {sentence(error)}")
        return 2
    except Stopped as error:
        _tell(f"mgd {options.command}: {error}")
        return STOPPED
    except KeyboardInterrupt:
        _tell("\ninterrupted; --resume goes on from the last save")
        return 130
    except Exception as error:  # torch on a CPU, NumPy and OpenCV each raise another type where memory ends
        if options.debug or not is_out_of_memory(error):
            raise
        remedy = (
            "use train.accumulate (mgd fit tells how much), a smaller train.batch_size or data.crop_size, or "
            "evaluate.window_batch=1"
        )
        _tell(f"mgd {options.command}: {no_memory(error, remedy)}")
        return 2


def _tell(text: str) -> None:
    """On the terminal; where that is gone the status alone tells."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr)


def build_parser(names: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    text = "Multi-granularity distillation for semantic segmentation."
    parser = argparse.ArgumentParser(prog="mgd", description=text)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in names:
        # import is a keyword of Python: its file is import_.py
        module = importlib.import_module(f"mgd.commands.{'import_' if name == 'import' else name}")
        text = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=text, description=text, parents=[common])
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def entry() -> None:
    """The installed `mgd` command; it ends without a word where its output is read no further, as by `| head -1`."""
    status = 0
    try:
        try:
            status = main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        status = 128 + signal.SIGPIPE  # as the shell tells of programs that end of it
    sys.exit(status)


if __name__ == "__main__":
    entry()
