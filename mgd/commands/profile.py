"""Tell what networks cost: parameters, multiply-accumulates, memory, latency."""

import argparse
from pathlib import Path

from mgd.errors import UserError
from mgd.figures import png


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = "experiments, checkpoints, or BACKBONE[/HEAD[/OUTPUT_STRIDE]]"
    parser.add_argument("networks", nargs="+", metavar="NETWORK", help=what)
    parser.add_argument("--size", type=int, default=512, help="height and width of the image (default 512)")
    parser.add_argument("--classes", type=int, default=21, help="where no data set tells them (default 21)")
    modes = "ways to run, of eager, channels-last and compile (default the first two)"
    parser.add_argument("--modes", default="eager,channels-last", help=modes)
    seconds = "spent on timing each way (default 1; 0: counts alone)"
    parser.add_argument("--seconds", type=float, default=1.0, help=seconds)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it")
    parser.add_argument("--plot", type=png, metavar="FILE", help="draw mIoU against cost (.png); needs mgd[report]")
    parser.set_defaults(overrides=[])


def run(options: argparse.Namespace) -> None:
    from mgd.deploy.profile import open_network, plot, profile, table, to_json
    from mgd.files import write_json

    if options.size < 1 or options.classes < 2 or options.seconds < 0:
        raise UserError("--size must be 1 or more, --classes 2 or more, --seconds 0 or more")
    names = [text for text in options.networks if "=" not in text]
    overrides = [*options.overrides, *(text for text in options.networks if "=" in text)]
    if not names:
        raise UserError("profile needs a network, such as resnet18/separable/32 or an experiment's folder")
    found = []
    for name in names:
        network, miou = open_network(name, options.classes, overrides)
        modes = [mode for mode in options.modes.split(",") if mode]
        found.append(profile(name, network, size=options.size, modes=modes, seconds=options.seconds, miou=miou))
    print(table(found))
    if options.json:
        write_json(options.json, to_json(found, options.size))
    if options.plot:
        plot(found, options.plot)
        print(f"picture: {options.plot.absolute()}")
