"""Make a data set's folder from what its authors publish."""

import argparse
from collections.abc import Callable
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sets = parser.add_subparsers(dest="what", required=True, metavar="DATASET")

    def add(name: str, make: Callable[[argparse.Namespace], str], text: str, out: str) -> argparse.ArgumentParser:
        one = sets.add_parser(name, help=text, description=text)
        one.add_argument("--out", type=Path, default=Path(out), help=f"the data set's folder (default {out})")
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
