"""Where a student's lessons come from: frozen teachers that look at its images, or what they left of every photo."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgd.config import MGD
from mgd.data.batch import Batch, StoredMaps, Views, neighbours
from mgd.data.cutmix import mix
from mgd.losses import global_pool
from mgd.metrics import IGNORE_INDEX
from mgd.models.folding import for_inference
from mgd.models.network import SegmentationNetwork
from mgd.objectives.base import Confidence, fill, hard_label, is_sure, mixed_label, see

Teachers = Mapping[str, SegmentationNetwork]  # "deep" (T_D) and "wide" (T_W), either may be missing
FEATURE_STRIDE = 4  # of a network's decoder feature
Labels = dict[str, Tensor]  # teacher -> (N,H,W) pseudo-label, 255 where there is no image


class Lesson(NamedTuple):
    """What a step wants to know of its labelled images and its mixed ones, as far as a weight asks for it."""

    labeled: Labels
    labels: Labels  # of the mixed ones, like the rest
    pooled: Tensor | None  # (N,K): T_D's logits, the mean over an image's valid pixels
    feature: Tensor | None  # (N,C,h,w): T_W's decoder feature
    soft: dict[str, Tensor]  # teacher -> (N,K,H,W): its logits


class Teaching:
    """What teachers say of images; without gradient, and nothing in it is trained.

    Attributes:
        names: of the teachers.
        networks: the teachers, where they are here.
        confidence: what each one's pseudo-labels of unlabelled images are held against.
    """

    networks: Teachers = MappingProxyType({})
    confidence: Mapping[str, Confidence]

    def __init__(self, config: MGD, names: tuple[str, ...]) -> None:
        self.config, self.names = config, names
        self.compares_image = "deep" in names and config.lambda_image > 0
        self.compares_region = "wide" in names and config.lambda_region > 0

    @property
    def sees_mixed(self) -> bool:
        """Whether any term on mixed images has a weight."""
        own = self.config.pixel_unlabeled > 0 or self.config.soft > 0
        return own or self.compares_image or self.compares_region

    def lesson(self, batch: Batch, mixed: Views) -> Lesson:
        """Of a batch, whose CutMix images are `mixed`."""
        raise NotImplementedError

    def apply(self, function: Callable[[nn.Module], object]) -> None:
        """Do to the networks what is done to an objective: `to()`, `cuda()` and the like."""


class TeacherNetworks(Teaching):
    """Teachers that look at the images themselves.

    Frozen, they get their batch norm folded, and then nothing in them changes; `teacher_norm="batch"` puts them in
    train mode, where predictions use batch statistics and the running ones drift, as in the official code.
    """

    def __init__(self, teachers: Iterable[tuple[str, SegmentationNetwork]], config: MGD) -> None:
        """`teachers`: perhaps made one by one; given up to this, which folds them in place: weights are held once."""
        self.networks = {}
        for name, network in teachers:
            used = network.train() if config.teacher_norm == "batch" else for_inference(network, in_place=True)
            self.networks[name] = used.requires_grad_(False)
        super().__init__(config, tuple(self.networks))

    def apply(self, function: Callable[[nn.Module], object]) -> None:
        for network in self.networks.values():
            function(network)

    @torch.no_grad()
    def lesson(self, batch: Batch, mixed: Views) -> Lesson:
        """The mask is binary: mixing labels is mixing logits before the argmax."""
        first, _, mask = batch.pair()
        lesson = Lesson({}, {}, None, None, {})
        for name, network in self.networks.items():
            compares = self.compares_image if name == "deep" else self.compares_region
            looks = {"labeled": batch.labeled} if self.config.pixel_labeled else {}
            looks |= {"first": first} if self.config.pixel_unlabeled else {}
            looks |= {"mixed": mixed} if compares or self.config.soft else {}
            features = self._features(network, looks)
            if "labeled" in features:
                lesson.labeled[name] = hard_label(network, features["labeled"], batch.labeled.valid)
            if "first" in features:
                seen, confidence = features["first"], self.confidence[name]
                (lesson.labels[name],) = mixed_label(network, batch, [mask], confidence=confidence, feature=seen)
            if "mixed" not in features:
                continue
            feature = features["mixed"]
            if self.config.soft:
                lesson.soft[name] = network.logits(feature, mixed.valid.shape[-2:])
            if compares and name == "deep":
                lesson = lesson._replace(pooled=global_pool(network.classifier(feature), fill(network, mixed.valid, 0)))
            elif compares:
                own = network.over_image(feature, mixed.valid.shape[-2:])
                lesson = lesson._replace(feature=own.clone())  # not a part of all images' features
        return lesson

    @staticmethod
    def _features(network: SegmentationNetwork, looks: Mapping[str, Views]) -> dict[str, Tensor]:
        """Decoder features; in one forward, which reads the weights once, unless images share batch statistics."""
        images = {name: see(network, views) for name, views in looks.items()}
        if network.training or len(images) < 2:
            return {name: network.feature(image) for name, image in images.items()}
        features = network.feature(torch.cat([*images.values()]))
        return dict(zip(images, features.split([len(image) for image in images.values()]), strict=True))


class StoredTeaching(Teaching):
    """What `mgd teach` left of the photos, cut as the images were; it comes with the batch.

    A network's logits of a mixed image are not the mix of its logits, which is all that a store can give: image level,
    region level and soft labels learn from a teacher that saw each photo whole.
    """

    def lesson(self, batch: Batch, mixed: Views) -> Lesson:
        first, second, mask = batch.pair()
        assert first.maps is not None
        assert second.maps is not None
        labeled = {} if batch.labeled.maps is None else dict(batch.labeled.maps.labels)
        labels = {}
        for name in first.maps.labels:
            own = self._sure_label(first.maps, name)
            partner = neighbours(own) if batch.second is None else self._sure_label(second.maps, name)
            labels[name] = mix(own, partner, mask)
        pooled, feature = None, None
        if self.compares_image:
            pooled = global_pool(*_mixed_cells(first, second, mask, "deep.logits", self.config.teach.logits_stride))
        if self.compares_region:
            stride = self.config.feature_stride(mask.shape[-1])
            feature, _ = _mixed_cells(first, second, mask, "wide.feature", stride)
            fine = stride // FEATURE_STRIDE
            feature = feature.repeat_interleave(fine, dim=2).repeat_interleave(fine, dim=3)
            feature = feature[:, :, : -(-mask.shape[2] // FEATURE_STRIDE), : -(-mask.shape[3] // FEATURE_STRIDE)]
        soft = stored_logits(batch, mixed, self.config.teach.logits_stride) if self.config.soft else {}
        return Lesson(labeled, labels, pooled, feature, soft)

    def _sure_label(self, maps: StoredMaps, name: str) -> Tensor:
        """(N,H,W) uint8 pseudo-label of a teacher; 255 where it is not as sure as `method.confidence` asks."""
        label, confidence = maps.labels[name], self.confidence[name]
        if not confidence:
            return label
        valid = label != IGNORE_INDEX
        classes, probability = label.where(valid, 0).long(), maps.confidence[name].float() / 255
        return label.masked_fill(~is_sure(probability, classes, confidence, valid=valid), IGNORE_INDEX)


def _mixed_cells(first: Views, second: Views, mask: Tensor, name: str, stride: int) -> tuple[Tensor, Tensor]:
    """(N,C,h,w) float32, the mean over the valid pixels of each mixed cell; (N,h,w), how many pixels these are."""
    assert first.maps is not None
    assert second.maps is not None
    taken = mask[:, 0].bool()
    share = _pixels_in_cells(first.valid & ~taken, stride)
    other = _pixels_in_cells(second.valid & taken, stride)
    own, partner = (maps.coarse[name].float() for maps in (first.maps, second.maps))
    total = share + other
    return (own * share[:, None] + partner * other[:, None]) / total.clamp(min=1)[:, None], total


def stored_logits(batch: Batch, views: Views, stride: int) -> dict[str, Tensor]:
    """Teacher -> its stored logits of a batch's labelled or mixed images, (N,K,H,W) float32; 0 far from any image.

    Of mixed images it is the mix of what the teacher said of each photo.
    """
    if views.maps is not None:
        return _enlarged(views, stride)
    assert batch.first is not None
    assert batch.mask is not None
    own = _enlarged(batch.first, stride)
    partner = _enlarged(batch.second, stride) if batch.second else {name: neighbours(x) for name, x in own.items()}
    return {name: mix(x, partner[name], batch.mask) for name, x in own.items()}


def stored_cells(batch: Batch, views: Views, kind: str, stride: int) -> Tensor:
    """A stored logits or feature map of a batch's labelled or mixed images, (N,C,h,w) float32 at `FEATURE_STRIDE`.

    A cell of mixed images is the mean over its pixels of what the teacher said of the photo that each is from.
    """
    if views.maps is not None:
        cells, pixels = views.maps.coarse[kind].float(), _pixels_in_cells(views.valid, stride)
    else:
        first, second, mask = batch.pair()
        cells, pixels = _mixed_cells(first, second, mask, kind, stride)
    height, width = (-(-side // FEATURE_STRIDE) for side in views.valid.shape[1:])
    return _enlarge(cells, pixels > 0, stride / FEATURE_STRIDE, (height, width))


def _enlarged(views: Views, stride: int) -> dict[str, Tensor]:
    """Teacher -> its stored logits at every pixel."""
    assert views.maps is not None
    holds, size = _pixels_in_cells(views.valid, stride) > 0, (views.valid.shape[1], views.valid.shape[2])
    coarse = {kind.partition("."): values for kind, values in views.maps.coarse.items()}
    return {
        name: _enlarge(cells.float(), holds, stride, size)
        for (name, _, what), cells in coarse.items()
        if what == "logits"
    }


def _enlarge(cells: Tensor, holds: Tensor, factor: float, size: tuple[int, int]) -> Tensor:
    """(N,C,h,w) -> (N,C,*size), bilinear between the centres of those cells that hold a part of an image, (N,h,w)."""
    known = holds.float()[:, None]

    def enlarge(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=float(factor), mode="bilinear")[..., : size[0], : size[1]]

    return enlarge(cells * known) / enlarge(known).clamp(min=torch.finfo(known.dtype).tiny)


def _pixels_in_cells(valid: Tensor, stride: int) -> Tensor:
    """(N,H,W) bool -> (N,h,w) float32: how many pixels of each cell are valid; the last cells may be smaller."""
    pad = [side for length in reversed(valid.shape[1:]) for side in (0, -length % stride)]
    return F.avg_pool2d(F.pad(valid.float(), pad)[:, None], stride)[:, 0] * stride**2
