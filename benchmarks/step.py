"""A training step of ours against the published schedule: python benchmarks/step.py --student resnet18 --threads 1

Both get the same made-up photos (two, as a GPU of the paper has, or --images), networks of the same architectures with
weights at random, and one optimiser step. The published schedule is re-enacted here from the paper and the behaviour of
its released code, in plain PyTorch: student and both teachers run on x, u0, u1 and mix (the student twice without
gradient, the teachers in train mode), every forward gives full-resolution logits, the decoder upsamples its context and
then convolves it, pseudo-labels are the argmax of mixed full-resolution logits, the three supervised and eight
consistency terms are computed one by one, six of them without gradient, and all of a step's activations are held until
one backward. Ours is `mgd.engine.step.Stepper`, which a run trains with:

online: teachers run; online_bf16: the same under bf16 autocast; offline: no teacher runs, and cutting the step's maps
out of a store on the disk is part of the time; memory: the peak of online (weights included, libraries not).

A figure is ours divided by the published one: the median over pairs of the two that were measured one after the other,
of CPU time with one thread, else of wall time. On a GPU (--device cuda) both are channels last with cuDNN's choice by
speed, fp32 is what torch makes of it there (convolutions multiply in TF32), and offline_bf16 is timed too.
"""

import argparse
import atexit
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mgd.config import MGD, Data, Experiment, Model, Train
from mgd.data.batch import Batch
from mgd.data.cutmix import box_masks
from mgd.data.maps import Kind, Maps, MapsWriter, Photo
from mgd.data.store import Contents
from mgd.data.transforms import draw_geometry
from mgd.engine.distributed import Processes
from mgd.engine.fit import made_batch
from mgd.engine.step import Stepper
from mgd.files import write_json
from mgd.models import SegmentationNetwork, build_model
from mgd.models.heads import DeepLabV3PlusHead, upsample
from mgd.objectives import build_network
from mgd.objectives.mgd import MGDObjective
from mgd.objectives.teaching import StoredTeaching, TeacherNetworks
from mgd.parallel import peak_memory

CLASSES = 21
STUDENTS = {name: Model(backbone=name, pretrained=False) for name in ("resnet18", "mobilenet_v2")}
STUDENTS["light"] = Model(backbone="mobilenet_v2", head="separable", pretrained=False)
PUBLISHED = {"resnet18": "resnet18", "mobilenet_v2": "mobilenet_v2", "light": "mobilenet_v2"}
TEACHERS = {"deep": "resnet101", "wide": "wide_resnet50_2"}
Step = Callable[[], object]


def experiment(size: int, student: str, images: int, **method: str) -> Experiment:
    names = {f"{name}_teacher": (f"{name}.pt",) for name in TEACHERS}
    return Experiment(
        data=Data(root="", crop_size=size),
        model=STUDENTS[student],
        method=MGD(**names, **method),  # type: ignore[arg-type]
        train=Train(batch_size=images, precision="fp32"),
    )


def networks() -> Iterator[tuple[str, SegmentationNetwork]]:
    return ((name, build_model(backbone, CLASSES)) for name, backbone in TEACHERS.items())


def ours(config: Experiment, device: torch.device) -> Stepper:
    assert isinstance(config.method, MGD)
    offline = config.method.teachers == "offline"
    teaching = StoredTeaching(config.method, (*TEACHERS,)) if offline else TeacherNetworks(networks(), config.method)
    student = build_network(config.model, CLASSES)
    return Stepper(MGDObjective(student, teaching, config.method), config.train, Processes(0, 1, device), 10**6)


def our_step(config: Experiment, device: torch.device) -> Step:
    """A step; offline with what a loader reads for it."""
    stepper, batch = ours(config, device), made_batch(config, CLASSES, device)
    assert isinstance(config.method, MGD)
    if config.method.teachers == "online":
        return lambda: stepper([batch])
    read = reading(config)

    def step() -> None:
        read()
        stepper([batch])

    return step


def reading(config: Experiment) -> Step:
    """What a worker reads of a store for one step: labels for labelled and unlabelled photos, coarse maps for these."""
    assert isinstance(config.method, MGD)
    height, width = 375, 500  # a photo of VOC
    rng = np.random.default_rng(0)
    kinds = [Kind("deep.label"), Kind("deep.logits", config.method.teach.logits_stride, CLASSES, "<f2")]
    kinds += [Kind("wide.label"), Kind("wide.feature", config.method.feature_stride(config.data.crop_size), 256, "<f2")]
    contents = Contents(tuple(map(str, range(8))), {})
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    writer = MapsWriter(folder, contents, kinds)
    for place in range(8):
        # Label maps as photos have them: areas, not noise.
        areas = (
            F.interpolate(torch.randn(1, CLASSES, 8, 10), (height, width), mode="bicubic").argmax(1)[0].byte().numpy()
        )
        writer.add(
            Photo(place, height, width, 0, 0, 0),
            {k.name: rng.normal(size=k.shape(height, width)) if k.channels else areas for k in kinds},
        )
    writer.close()
    store, data = Maps(folder, contents), config.data

    def read() -> None:
        for slot in range(2 * config.train.batch_size):
            place = int(rng.integers(8))
            geometry = draw_geometry(height, width, scales=data.scales, crop=data.crop_size, rng=rng)
            for kind in kinds:
                if not kind.channels:
                    store.crop_full(place, kind.name, geometry)
                elif slot < config.train.batch_size:
                    store.crop_coarse(place, kind.name, geometry)

    return read


def published_step(config: Experiment, student: str, device: torch.device) -> Step:
    """The published schedule on the same batch, with its second unlabelled images."""
    config = replace(config, data=replace(config.data, partner="independent"))
    nets = {"student": build_model(PUBLISHED[student], CLASSES), **dict(networks())}
    for name, network in nets.items():
        network.train().requires_grad_(name == "student").to(device)
        if device.type == "cuda":
            network.to(memory_format=torch.channels_last)
    train = config.train
    optimizer = torch.optim.SGD(
        nets["student"].parameters(), lr=train.lr, momentum=0.9, weight_decay=train.weight_decay
    )
    batch, method = made_batch(config, CLASSES, device), config.method
    assert isinstance(method, MGD)
    crop = config.data.crop_size
    boxes = box_masks(train.batch_size, crop, crop, generator=np.random.default_rng(0))
    mask = torch.from_numpy(boxes).float().to(device)

    def step() -> None:
        loss = published_loss(nets, batch, mask, method)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def published_feature(network: SegmentationNetwork, image: Tensor) -> Tensor:
    """What the classifier sees: the context is upsampled, then convolved."""
    head, features = network.head, network.backbone(image)
    assert isinstance(head, DeepLabV3PlusHead)
    low, high = (features[level] for level in head.levels)
    return head.last_conv(torch.cat([upsample(head.aspp(high), low.shape[-2:]), head.reduce(low)], dim=1))


def published_loss(nets: dict[str, SegmentationNetwork], batch: Batch, mask: Tensor, method: MGD) -> Tensor:
    views = (batch.labeled, *batch.pair()[:2])
    layout = torch.channels_last if batch.labeled.image.is_cuda else torch.contiguous_format
    x, u0, u1 = (nets["student"].normalise(one.image).contiguous(memory_format=layout) for one in views)
    label = batch.labeled.label
    assert label is not None
    mixed = u0 * (1 - mask) + u1 * mask
    pseudo, on_x, on_mixed, features = {}, {}, {}, {}
    for name, network in nets.items():
        with torch.no_grad():
            first, second = (network.logits(published_feature(network, u), u.shape[-2:]) for u in (u0, u1))
            logits = first * (1 - mask) + second * mask
            pseudo[name] = logits.argmax(dim=1)
        with torch.set_grad_enabled(name == "student"):
            on_x[name] = network.logits(published_feature(network, x), x.shape[-2:])
            features[name] = published_feature(network, mixed)
            on_mixed[name] = network.logits(features[name], mixed.shape[-2:])

    def ce(logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, ignore_index=255)

    terms = [ce(on_x[name], label) for name in nets]
    for learner, teachers in (("student", ("wide", "deep")), ("wide", ("student",)), ("deep", ("student",))):
        for teacher in teachers:
            terms.append(ce(on_mixed[learner], pseudo[teacher]))
            terms.append(ce(on_x[learner], on_x[teacher].argmax(dim=1)))
    pooled = [F.adaptive_avg_pool2d(on_mixed[name], 1).flatten(1) for name in ("student", "deep")]
    terms.append(method.lambda_image * (pooled[0] - pooled[1]).abs().sum(dim=1).mean())
    regions = [F.adaptive_avg_pool2d(features[name], method.region_grid).flatten(2) for name in ("student", "wide")]
    unit = [F.normalize(one, dim=1) for one in regions]
    similar = [one.transpose(1, 2) @ one for one in unit]
    terms.append(method.lambda_region * F.mse_loss(*similar))
    return torch.stack(terms).sum()


def seconds(step: Step, options: argparse.Namespace) -> float:
    on_gpu = options.device.type == "cuda"
    clock = time.process_time if options.threads == 1 and not on_gpu else time.perf_counter
    started = clock()
    step()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - started


def ratios(options: argparse.Namespace) -> dict[str, float]:
    what, device = (options.size, options.student, options.images), options.device
    config = experiment(*what)
    half = replace(config, train=replace(config.train, precision="bf16"))
    offline = experiment(*what, teachers="offline")
    steps = {"published": published_step(config, options.student, device), "online": our_step(config, device)}
    steps |= {"online_bf16": our_step(half, device), "offline": our_step(offline, device)}
    if device.type == "cuda":
        half_offline = replace(offline, train=half.train)
        steps |= {"offline_bf16": our_step(half_offline, device)}
    for step in steps.values():
        seconds(step, options)  # the first sets things up
    rounds = [{name: seconds(step, options) for name, step in steps.items()} for _ in range(options.pairs)]
    for name in steps:
        print(f"{name:<12} {median(one[name] for one in rounds):8.3f} s")
    return {name: median(one[name] / one["published"] for one in rounds) for name in list(steps)[1:]}


def peak(make: Callable[..., Step], *arguments: object) -> float:
    """Bytes at the peak of a step, above what the libraries take, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_peak, args=(sender, make, arguments))
    process.start()
    sender.close()
    found = receiver.recv()
    process.join()
    return found


def _peak(sender: Connection, make: Callable[..., Step], arguments: tuple) -> None:
    torch.set_num_threads(1)
    F.conv2d(torch.randn(1, 8, 64, 64), torch.randn(8, 8, 3, 3))
    high_water = torch.cuda.max_memory_allocated if arguments[-1].type == "cuda" else peak_memory
    before = high_water()
    make(*arguments)()
    sender.send(high_water() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--student", choices=PUBLISHED, default="resnet18")
    parser.add_argument("--size", type=int, default=256, help="crop in pixels (published: 512)")
    parser.add_argument("--images", type=int, default=2, help="labelled ones, and as many unlabelled ones")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True  # as in training
    found = ratios(options)
    config, device = experiment(options.size, options.student, options.images), options.device
    own, published = peak(our_step, config, device), peak(published_step, config, options.student, device)
    print(f"peak memory  {own / 2**30:.2f} GiB, published {published / 2**30:.2f}")
    found["memory"] = own / published
    for name, ratio in found.items():
        print(f"{name:<12} {ratio:8.3f} of the published step")
    if options.json:
        write_json(options.json, found)


if __name__ == "__main__":
    main()
