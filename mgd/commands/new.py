"""Write an experiment family for a data set: two teachers, a student, run.sh; each decision told in family.py."""

import argparse
from pathlib import Path

from mgd.config import Data, Experiment, Model, Supervised, override
from mgd.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="to make, such as exp.leaves")
    parser.add_argument("overrides", nargs="*", metavar="data.key=value", help="to keep, such as data.label_map=255=1")
    parser.add_argument("--data", type=Path, required=True, help="the data set, as mgd prepare labels makes it")


def run(options: argparse.Namespace) -> None:
    from mgd.new import write_family

    if others := [text for text in options.overrides if not text.startswith("data.")]:
        raise UserError(f"{others[0]}: only data. fields are looked up and kept; set others in the configs it writes")
    plain = Experiment(data=Data(root="", partition=1), model=Model(backbone="resnet18"), method=Supervised())
    data = override(plain, options.overrides).data
    given = [text.partition("=")[0].removeprefix("data.") for text in options.overrides]
    print(write_family(options.folder, options.data, {field: getattr(data, field) for field in given}))
