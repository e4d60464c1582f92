"""PASCAL VOC 2012 with the labels of SBD ("augmented") from the two downloaded archives."""

from itertools import chain
from pathlib import Path

from mgd.data.images import read_indices
from mgd.data.prepare.jobs import Job, need_folder, read_mat, read_names, run_jobs, summary, write_partitions
from mgd.files import link, write_lines, write_png


def prepare_voc(devkit: Path, sbd: Path, out: Path) -> str:
    """Make DATA/pascal_voc: the training list is the union of VOC's and SBD's, without VOC's validation, sorted.

    The names of VOC's own lists get VOC's labels, which keep 255 on the borders of objects; all others get SBD's.

    Args:
        devkit: VOCdevkit/VOC2012. sbd: benchmark_RELEASE/dataset of the Semantic Boundaries Dataset.

    Returns:
        What was made, against the published counts.

    Raises:
        UserError: a folder, list or file is missing or broken.
    """
    need_folder(devkit, "VOCdevkit/VOC2012 with JPEGImages, SegmentationClass and ImageSets")
    need_folder(sbd, "SBD's benchmark_RELEASE/dataset with img, cls and the lists (its .mat files hold the labels)")
    sets = devkit / "ImageSets" / "Segmentation"
    voc, val = set(read_names(sets / "train.txt")), sorted(read_names(sets / "val.txt"))
    train = sorted((voc | set(read_names(sbd / "train.txt")) | set(read_names(sbd / "val.txt"))) - set(val))
    names = {"train_aug": train, "val": val}
    own = voc | set(val)
    jobs = [_jobs(devkit, None if n in own else sbd, out / part, n) for part in names for n in names[part]]
    run_jobs(chain.from_iterable(jobs), "VOC")
    for part in names:
        write_lines(out / f"{part}.txt", names[part])
    warnings = write_partitions(out / "subset_train_aug" / "train_aug_{part}_1-{ratio}.txt", train)
    return summary(out, {"training images": (len(train), 10582), "validation images": (len(val), 1449)}, warnings)


def _jobs(devkit: Path, sbd: Path | None, folder: Path, name: str) -> list[Job]:
    """Photo and label of a name; `sbd`: where the label is, None: in the devkit."""
    photo, label = devkit / "JPEGImages" / f"{name}.jpg", devkit / "SegmentationClass" / f"{name}.png"
    if sbd is not None and not photo.is_file():
        photo = sbd / "img" / f"{name}.jpg"
    target = folder / "label" / f"{name}.png"
    made = Job(_from_palette, label, target) if sbd is None else Job(_from_sbd, sbd / "cls" / f"{name}.mat", target)
    return [Job(link, photo, folder / "image" / f"{name}.jpg", photo=True), made]


def _from_palette(source: Path, target: Path) -> None:
    write_png(target, read_indices(source))


def _from_sbd(source: Path, target: Path) -> None:
    write_png(target, read_mat(source, "GTcls")["Segmentation"][0, 0].astype("uint8"))
