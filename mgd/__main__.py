"""The commands: each parses, loads, calls one function."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mgd.config import load, to_dict
from mgd.errors import UserError

Command = Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status: 0, or 2 for bad input, which is told in one sentence."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse cannot take the overrides itself when options stand between them.
    overrides = [text for text in rest if "=" in text and not text.startswith("-")]
    if unknown := [text for text in rest if text not in overrides]:
        parser.error(f"unknown argument {unknown[0]}")
    if hasattr(options, "overrides"):
        options.overrides = [*options.overrides, *overrides]
    elif overrides:
        parser.error(f"{options.command} takes no overrides, found {overrides[0]}")
    try:
        options.run(options)
    except UserError as error:
        if options.debug:
            raise
        print(f"mgd {options.command}: {sentence(error)}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError as error:
        if options.debug:
            raise
        reason = str(error).split(". ")[0]
        remedy = "use train.accumulate, a smaller train.batch_size or data.crop_size, or evaluate.window_batch=1"
        print(f"mgd {options.command}: {reason}; {remedy}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; --resume goes on from the last save", file=sys.stderr)
        return 130
    return 0


def sentence(error: UserError) -> str:
    """The message; one that comes from a loader's worker is wrapped in that worker's traceback."""
    return str(error).rsplit("UserError: ", 1)[-1].strip()


def build_parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    text = "Multi-granularity distillation for semantic segmentation."
    parser = argparse.ArgumentParser(prog="mgd", description=text)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, parents=[common])
        command.set_defaults(run=run)
        return command

    command = add("train", _train, "Train an experiment into its run folder.")
    command.add_argument("config", help="an experiment's config.py or folder")
    command.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes, such as train.lr=0.01")
    command.add_argument("--resume", action="store_true", help="go on from run.dir/last.pt when it is there")

    command = add("evaluate", _evaluate, "Score a network on the validation list.")
    command.add_argument("target", help="a config.py (its last.pt is scored) or a checkpoint, ours or an official one")
    command.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes, such as data.val_list=x.txt")
    command.add_argument("--checkpoint", type=Path, help="score this file with the config's settings")
    command.add_argument("--out", type=Path, help="folder of the report; default: evaluation/ beside the checkpoint")

    command = add("compare", _compare, "Score several networks on one list; draw them side by side.")
    command.add_argument("checkpoints", nargs="+", metavar="NAME:FILE", help="checkpoints, or key.sub=value")
    command.add_argument("--out", type=Path, default=Path("compare.png"), help="the picture (default compare.png)")
    command.add_argument("--images", type=int, default=6, help="rows of the picture (default 6)")
    command.set_defaults(overrides=[])

    command = add("import", _import, "Turn an official checkpoint into ours, or one of ours into an official one.")
    command.add_argument("file", type=Path)
    which = (
        "which of the three networks of a student's official file: the student (default), or the teacher whose "
        "architecture --backbone names; in every other file there is one that counts"
    )
    command.add_argument("--as", dest="role", choices=("teacher", "student"), default="student", help=which)
    command.add_argument("--backbone", default="", help="what it must be; default: recognised from the tensors")
    where = (
        "default: beside FILE, .pt (.official.pth with --to-official); ImageNet weights of a backbone get the name "
        "that model.pretrained looks for in model.weights_dir"
    )
    command.add_argument("--out", type=Path, help=where)
    command.add_argument("--to-official", action="store_true", help="the other way: one of ours to the official layout")

    command = add("prepare", _prepare, "Make a data set in VOC layout.")
    command.add_argument("what", choices=("scenes",), help="scenes: generated street scenes, no download")
    command.add_argument("--out", type=Path, required=True, help="the data set's folder")
    command.add_argument("--train", type=int, default=512, help="training images (default 512)")
    command.add_argument("--val", type=int, default=64, help="validation images (default 64)")
    command.add_argument("--size", default="128x96", help="width x height (default 128x96)")
    command.add_argument("--seed", type=int, default=0)
    return parser


def _train(options: argparse.Namespace) -> None:
    from mgd.engine.distributed import processes
    from mgd.engine.log import log_to_terminal
    from mgd.engine.loop import Trainer

    config = load(options.config, options.overrides)
    with processes(config.run.device) as team:
        log_to_terminal(main=team.is_main)
        Trainer(config, team, resume=options.resume).run()


def _evaluate(options: argparse.Namespace) -> None:
    from mgd.data.classes import read_classes
    from mgd.data.datasets import open_val
    from mgd.engine.distributed import processes
    from mgd.engine.log import log_to_terminal
    from mgd.evaluate import evaluate, open_target

    config, network, file = open_target(options.target, options.overrides, file=options.checkpoint)
    folder = options.out or file.parent / "evaluation"
    with processes(config.run.device) as team:
        log_to_terminal(main=team.is_main)
        classes = read_classes(config.data.classes, Path(config.data.root))
        if len(classes) != network.num_classes:
            kind = f"data.classes={config.data.classes}"
            raise UserError(
                f"{file} was trained for {network.num_classes} classes, {kind} has {len(classes)}; set data.root and "
                "data.classes to the data that it was trained on"
            )
        pictures, caption = folder / f"{file.stem}-pictures", "evaluation" if team.is_main else ""
        items = open_val(config.data)
        network.to(team.device).to(memory_format=torch.channels_last)
        report = evaluate(network, items, classes, config, team.device, pictures=pictures, progress=caption)
        if team.is_main:
            report.write(folder, file.stem, checkpoint=str(file), config=to_dict(config))
            print(report.table())
            print(f"{report.images} images; report and pictures in {folder}")


def _compare(options: argparse.Namespace) -> None:
    from mgd.compare import compare
    from mgd.engine.distributed import pick_device
    from mgd.evaluate import open_target

    if options.images < 1:
        raise UserError(f"--images {options.images} must be 1 or more")
    files: dict[str, Path] = {}
    for text in options.checkpoints:
        name, _, file = text.partition(":")
        if "=" in name:  # key.sub=value: argparse cannot tell the two apart
            options.overrides = [*options.overrides, text]
        elif name and file:
            files[name] = Path(file)
        else:
            raise UserError(f"{text} must be NAME:FILE, such as student:exp.demo/scenes.student/run/last.pt")
    if not files:
        raise UserError("compare needs a network, such as student:exp.demo/scenes.student/run/last.pt")
    config, _, _ = open_target(next(iter(files.values())), options.overrides)
    device = pick_device(config.run.device, 0, torch.cuda.device_count())
    print(compare(files, config, device, out=options.out, images=options.images))
    print(f"picture: {options.out.absolute()}")


def _import(options: argparse.Namespace) -> None:
    from mgd.convert import convert

    print(
        convert(
            options.file, out=options.out, role=options.role, backbone=options.backbone, official=options.to_official
        )
    )


def _prepare(options: argparse.Namespace) -> None:
    from mgd.data.prepare.scenes import generate_scenes

    try:
        width, height = map(int, options.size.split("x"))
    except ValueError:
        raise UserError(f"--size {options.size} must be WIDTHxHEIGHT, such as 128x96") from None
    generate_scenes(options.out, train=options.train, val=options.val, height=height, width=width, seed=options.seed)
    print(f"{options.train} training and {options.val} validation scenes in {options.out}")


def entry() -> None:
    """The installed `mgd` command."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
