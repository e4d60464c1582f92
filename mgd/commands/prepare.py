"""Make a data set's folder from what its authors publish."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mgd.data.formats.table import READERS, WRITERS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sets = parser.add_subparsers(dest="what", required=True, metavar="DATASET")

    def add(name: str, make: Callable[[argparse.Namespace], str], text: str, out: str) -> argparse.ArgumentParser:
        one = sets.add_parser(name, help=text, description=text)
        default = Path(out) if out else None
        told = f"(default {out})" if out else "to make"
        one.add_argument("--out", type=Path, required=not out, default=default, help=f"the data set's folder {told}")
        one.set_defaults(make=make)
        return one

    one = add("voc", _voc, "PASCAL VOC 2012 with SBD's labels (augmented).", "DATA/pascal_voc")
    one.add_argument("--devkit", type=Path, required=True, help="VOCdevkit/VOC2012")
    one.add_argument("--sbd", type=Path, required=True, help="SBD's benchmark_RELEASE/dataset")

    one = add("city", _city, "Cityscapes: flat folders, trainIds, lists.", "DATA/city")
    one.add_argument("--images", type=Path, required=True, help="leftImg8bit")
    one.add_argument("--labels", type=Path, required=True, help="gtFine")

    one = add("camvid", _camvid, "CamVid with 11 classes.", "DATA/camvid")
    one.add_argument("--source", type=Path, required=True, help="CamVid of the SegNet tutorial")

    one = add("ccp", _ccp, "Clothing Co-Parsing, tags merged into classes.", "DATA/fashion")
    one.add_argument("--source", type=Path, required=True, help="the data set's repository")
    one.add_argument("--merge", type=Path, default=Path("DATA/ccp_merge.csv"), help="CSV of tag,class (10 classes)")
    one.add_argument("--val-every", type=int, default=7, help="one labelled photo in so many for validation (7)")

    one = add("labelmefacade", _labelmefacade, "LabelMeFacade, 8 classes.", "DATA/facades")
    one.add_argument("--source", type=Path, required=True, help="the data set's repository")
    one.add_argument("--val-every", type=int, default=5, help="one photo in so many for validation (5)")

    one = add("labels", _labels, "Labels as an annotation tool exports them (docs/labels.md).", "")
    _add_labels(one)

    one = add("colors", _colors, "The colours of RGB masks, as a table to give names in.", "colors.csv")
    one.add_argument("source", type=Path, metavar="SOURCE", help="a folder of masks")

    one = add("export-labels", _export_labels, "Label maps back to an annotation tool, to correct there.", "")
    one.add_argument("source", type=Path, metavar="DIR", help="label maps, in labels/ or itself")
    one.add_argument("--format", required=True, choices=sorted(WRITERS), help="the tool")
    one.add_argument("--images", type=Path, help="the photos (default: DIR/images)")
    one.add_argument("--classes", default="", help="voc, city, camvid, or a CSV file below DIR (default: classes.csv)")


def _add_labels(one: argparse.ArgumentParser) -> None:
    several: dict[str, Any] = {"type": _names, "action": "extend", "default": []}  # at once, or the option repeated
    one.add_argument("source", type=Path, metavar="SOURCE", help="the export: a folder, or the format's main file")
    one.add_argument("--format", required=True, choices=list(READERS), help="what wrote it")
    one.add_argument("--images", type=Path, help="the photos, when not where the tool puts them")
    one.add_argument("--label-pattern", default="", help="index, rgb: masks beside photos, as {stem}_mask.png")
    one.add_argument("--map", **several, metavar="A=B,...", help="index: 255=1 1..8=0..7 0=ignore")
    one.add_argument("--colors", type=Path, help="rgb: a CSV file name,red,green,blue (see mgd prepare colors)")
    one.add_argument("--tolerance", type=_count, default=0, help="rgb, cvat: how far a colour may be off (default 0)")
    one.add_argument("--line-width", type=float, default=10, help="labelme: of lines and points, in pixels (10)")
    one.add_argument("--predictions", action="store_true", help="label-studio: take them where nobody annotated")
    one.add_argument("--classes", default="", help="classes in their order: names, or a CSV file; index needs it")
    one.add_argument("--merge", action="append", default=[], metavar="NEW=OLD,OLD", help="these become one class")
    one.add_argument("--drop", **several, metavar="NAME,NAME", help="as if nobody had drawn these")
    one.add_argument("--ignore", **several, metavar="NAME,NAME", help="pixels of these become 255")
    one.add_argument("--unmarked", choices=("background", "ignore"), default="", help="pixels that no region covers")
    one.add_argument("--val-every", type=int, default=5, help="one photo in so many for validation (5)")
    one.add_argument("--skip-broken", action="store_true", help="leave out what cannot be read, and tell it")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number, 0 or more")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def run(options: argparse.Namespace) -> None:
    print(options.make(options))


def _voc(options: argparse.Namespace) -> str:
    from mgd.data.prepare.voc import prepare_voc

    return prepare_voc(options.devkit, options.sbd, options.out)


def _city(options: argparse.Namespace) -> str:
    from mgd.data.prepare.city import prepare_city

    return prepare_city(options.images, options.labels, options.out)


def _camvid(options: argparse.Namespace) -> str:
    from mgd.data.prepare.camvid import prepare_camvid

    return prepare_camvid(options.source, options.out)


def _ccp(options: argparse.Namespace) -> str:
    from mgd.data.prepare.ccp import prepare_ccp

    return prepare_ccp(options.source, options.merge, options.out, val_every=options.val_every)


def _labelmefacade(options: argparse.Namespace) -> str:
    from mgd.data.prepare.labelmefacade import prepare_labelmefacade

    return prepare_labelmefacade(options.source, options.out, val_every=options.val_every)


def _labels(options: argparse.Namespace) -> str:
    from mgd.data.formats.convert import convert
    from mgd.data.formats.export import Reading
    from mgd.data.formats.rules import Rules

    reading = Reading(
        images=options.images,
        label_pattern=options.label_pattern,
        label_map=tuple(options.map),
        classes=options.classes,
        colors=options.colors,
        tolerance=options.tolerance,
        line_width=options.line_width,
        predictions=options.predictions,
        skip_missing=options.skip_broken,
    )
    lists = {name: tuple(getattr(options, name)) for name in ("merge", "drop", "ignore")}
    rules = Rules(**lists, unmarked=options.unmarked)
    return convert(
        options.source,
        options.format,
        options.out,
        reading=reading,
        rules=rules,
        val_every=options.val_every,
        skip_broken=options.skip_broken,
    )


def _colors(options: argparse.Namespace) -> str:
    from mgd.data.formats.rgb import learn_table

    return learn_table(options.source, options.out)


def _export_labels(options: argparse.Namespace) -> str:
    from mgd.data.formats.back import export_labels

    return export_labels(options.source, options.format, options.out, images=options.images, classes=options.classes)
