"""Let an experiment's frozen teachers look at every training photo once, and store what its student needs of them."""

import argparse
from datetime import timedelta
from pathlib import Path

from mgd.config import Taught, load, method_name
from mgd.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a student's config.py or folder")
    text = "changes, such as method.teach.flip=true, or method.score_teachers=false to begin without a score"
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help=text)
    parser.add_argument("--dry-run", action="store_true", help="tell size and time, measured on a few photos, and end")
    parser.add_argument("--export", type=Path, metavar="DIR", help="also write labels and confidences as PNGs")


def run(options: argparse.Namespace) -> None:
    from mgd.data.datasets import open_splits
    from mgd.data.maps import Maps
    from mgd.engine.distributed import processes
    from mgd.engine.log import log_to_terminal
    from mgd.engine.optim import pick_precision
    from mgd.engine.teachers import score_teachers, scored_teachers
    from mgd.objectives import find_teacher, maps_contents, teacher_paths
    from mgd.teach import estimate, export, open_teachers, teach
    from mgd.weights import end_of

    config = load(options.config, options.overrides)
    if not isinstance(config.method, Taught):
        text = f"{options.config}: method={method_name(config.method)} has no teachers that can be offline"
        raise UserError(f"{text}; name the config of a student with method=mgd, kd or cwd")
    folder, splits = Path(config.method.teach.dir), open_splits(config.data)
    with processes(config.run.device, timeout=config.run.timeout) as team:
        log_to_terminal(main=team.is_main)
        precision = pick_precision(config.method.teach.precision, team.device)
        teachers = open_teachers(config, splits, team.device)
        if team.is_main:
            found = estimate(config, splits, teachers, precision=precision)
            span = timedelta(seconds=round(found.seconds / team.world))
            print(f"{found.photos:,} photos left: {found.bytes / 2**30:.2f} GiB in {folder}, about {span}", flush=True)
        if options.dry_run:
            return
        networks = {teacher.name: teacher.network for teacher in teachers}
        files = teacher_paths(config.method)
        ends = {name: end_of(find_teacher(files[name], name)) for name in networks}
        if scored_teachers(Path(config.run.dir), ends).keys() != networks.keys():
            score_teachers(networks, config, splits, team.device, main=team.is_main)
        looked = teach(config, splits, teachers, precision=precision, rank=team.rank, world=team.world)
        team.wait()
        if team.is_main:
            maps = Maps(folder, maps_contents(config, splits))
            print(f"{folder} holds the teachers' maps of {len(maps.contents.photos):,} photos, {looked:,} made now")
            if options.export:
                print(f"{export(config, splits, maps, options.export):,} photos exported to {options.export}")
