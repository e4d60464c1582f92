"""Test inference: windows, whole image, scales, flip, size of the result."""

from typing import Any

import cv2
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mgd.config import Evaluate
from mgd.infer import predict_confidence, predict_labels, predict_scores, resize_photo, windows_at_once
from mgd.models import build_model
from mgd.models.any_size import any_size
from mgd.models.normalise import NormalisingNetwork
from mgd.rows import Resized

SIZES = [(40, 60), (16, 16), (17, 16), (9, 60), (5, 7), (31, 64)]
WHOLE = Evaluate(mode="whole")


def windows(crop: int, **options: object) -> Evaluate:
    return Evaluate(mode="slide", crop_size=crop, **options)  # type: ignore[arg-type]


def photo(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Counting(NormalisingNetwork):
    """Scores 1 for the only class, so that the result counts the windows over a pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ones_like(x[:, :1])


class Convolution(NormalisingNetwork, nn.Conv2d):
    pass


@pytest.fixture
def pixelwise() -> NormalisingNetwork:
    torch.manual_seed(0)
    return Convolution(3, 5, 1)


@pytest.fixture
def lopsided() -> NormalisingNetwork:
    """A network that sees left and right differently."""
    torch.manual_seed(0)
    return Convolution(3, 5, 3, padding=1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1.0, 2 / 3, 0.3])
def test_windows_cover_every_pixel(size: tuple[int, int], stride: float) -> None:
    counts = predict_scores(Counting(), photo(*size), windows(16, stride=stride))
    assert counts.shape == (1, *size)
    assert counts.min() >= 1


def test_windows_overlap_only_as_much_as_the_stride_asks_for() -> None:
    counts = predict_scores(Counting(), photo(32, 48), windows(16, stride=1.0))
    assert (counts == 1).all()


def test_scores_are_summed_where_windows_overlap() -> None:
    counts = predict_scores(Counting(), photo(16, 27), windows(16))  # a step of ceil(16 * 2/3) = 11: at 0 and 11
    assert counts[0, 0].tolist() == [1] * 11 + [2] * 5 + [1] * 11


@pytest.mark.parametrize("size", SIZES)
def test_windows_equal_the_whole_image_for_a_pixelwise_network(
    pixelwise: NormalisingNetwork, size: tuple[int, int]
) -> None:
    image, how = photo(*size), windows(16)
    counts = predict_scores(Counting(), image, how)
    whole = predict_scores(pixelwise, image, WHOLE)
    assert torch.allclose(predict_scores(pixelwise, image, how) / counts, whole, atol=1e-5)


@pytest.mark.parametrize("how", [windows(16), windows(16, scales=(1.0, 1.0)), Evaluate(mode="whole", flip=True)])
def test_confidence_does_not_grow_where_windows_overlap(pixelwise: NormalisingNetwork, how: Evaluate) -> None:
    image = photo(31, 64)
    label, share = predict_confidence(pixelwise, image, how)
    alone, once = predict_confidence(pixelwise, image, WHOLE)
    assert torch.equal(label, alone)
    assert torch.allclose(share, once, atol=1e-5)


def test_the_whole_image_is_scored_as_the_network_does(lopsided: NormalisingNetwork) -> None:
    image = photo(20, 30)
    assert torch.allclose(
        predict_scores(lopsided, image, WHOLE), lopsided(lopsided.normalise(image[None]))[0], atol=1e-5
    )


def test_an_image_smaller_than_the_window_is_padded_with_zeros_after_normalising(lopsided: NormalisingNetwork) -> None:
    image = photo(10, 12)
    padded = torch.zeros(1, 3, 16, 16)
    padded[:, :, 3:13, 2:14] = lopsided.normalise(image[None])
    expected = lopsided(padded)[0, :, 3:13, 2:14]
    assert torch.allclose(predict_scores(lopsided, image, windows(16)), expected, atol=1e-5)


@pytest.mark.parametrize("how", [WHOLE, windows(16)])
def test_scores_are_summed_over_scales(pixelwise: NormalisingNetwork, how: Evaluate) -> None:
    flat = torch.full((3, 24, 24), 200, dtype=torch.uint8)
    parts = [
        predict_scores(pixelwise, flat, Evaluate(mode=how.mode, crop_size=how.crop_size, stride=1.0, scales=(scale,)))
        for scale in (0.5, 1.0, 1.5)
    ]
    together = Evaluate(mode=how.mode, crop_size=how.crop_size, stride=1.0, scales=(0.5, 1.0, 1.5))
    assert torch.allclose(predict_scores(pixelwise, flat, together), sum(parts, torch.zeros(1)), atol=1e-4)


def test_the_network_sees_the_image_at_every_scale() -> None:
    seen = []

    class Spy(Counting):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(tuple(x.shape[-2:]))
            return super().forward(x)

    scores = predict_scores(Spy(), photo(20, 30), Evaluate(mode="whole", scales=(0.5, 1.0, 2.0)))
    assert seen == [(10, 15), (20, 30), (40, 60)]
    assert scores.shape == (1, 20, 30)


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_with_flip_a_mirrored_image_has_mirrored_scores(lopsided: NormalisingNetwork, mode: str) -> None:
    image, crop = photo(32, 32), 32
    scores, mirrored = (
        predict_scores(lopsided, one, Evaluate(mode=mode, crop_size=crop, flip=True))  # type: ignore[arg-type]
        for one in (image, image.flip(-1))
    )
    assert torch.allclose(mirrored.flip(-1), scores, atol=1e-5)
    assert not torch.allclose(predict_scores(lopsided, image, WHOLE) * 2, scores, atol=1e-2)


def test_flip_doubles_the_scores_of_a_pixelwise_network(pixelwise: NormalisingNetwork) -> None:
    image = photo(20, 30)
    plain, flipped = (predict_scores(pixelwise, image, windows(16, flip=flip)) for flip in (False, True))
    assert torch.allclose(flipped, 2 * plain, atol=1e-4)


@pytest.mark.parametrize("batch", [2, 5, 100])
def test_the_number_of_windows_in_a_forward_pass_does_not_matter(
    lopsided: NormalisingNetwork, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = photo(40, 60)
    monkeypatch.setattr("mgd.infer.windows_at_once", lambda how, _: how.window_batch)  # as on a GPU
    alone = predict_scores(lopsided, image, windows(16, window_batch=1))
    assert torch.allclose(predict_scores(lopsided, image, windows(16, window_batch=batch)), alone, atol=1e-5)


def test_a_cpu_takes_windows_one_by_one() -> None:
    how = windows(16, window_batch=4)
    assert [windows_at_once(how, torch.device(name)) for name in ("cpu", "cuda")] == [1, 4]


def test_scores_are_given_in_the_size_that_is_asked_for(pixelwise: NormalisingNetwork) -> None:
    flat = torch.full((3, 12, 16), 90, dtype=torch.uint8)
    scores = predict_scores(pixelwise, flat, WHOLE, size=(24, 40))
    assert scores.shape == (5, 24, 40)
    expected = predict_scores(pixelwise, flat, WHOLE)[:, :1, :1].expand(5, 24, 40)
    assert torch.allclose(scores, expected, atol=1e-5)


def test_inference_leaves_no_graph_behind(pixelwise: NormalisingNetwork) -> None:
    assert not predict_scores(pixelwise, photo(8, 8), WHOLE).requires_grad


# Bands: scores reduced as they come


@pytest.fixture(scope="module")
def deeplab() -> NormalisingNetwork:
    torch.manual_seed(0)
    return build_model("timm:test_resnet", 5, channels=16).eval()


HOWS = [
    WHOLE,
    Evaluate(mode="whole", flip=True, scales=(0.5, 1.0, 1.3)),
    windows(16, window_batch=2),
    windows(16, stride=0.4, flip=True),
    windows(16, scales=(0.5, 1.0, 1.3)),
    windows(64),
]


@pytest.mark.parametrize("size", [None, (90, 33), (20, 25)])
@pytest.mark.parametrize("how", HOWS)
def test_labels_are_the_scores_greatest_however_high_a_band_is(
    deeplab: NormalisingNetwork, how: Evaluate, size: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = photo(41, 50)
    scores = predict_scores(deeplab, image, how, size=size)
    assert torch.equal(predict_labels(deeplab, image, how, size=size), scores.argmax(dim=0).to(torch.uint8))
    for band in (1, 5 * 50 * 7):
        monkeypatch.setattr("mgd.infer.BAND", band)
        torch.testing.assert_close(predict_scores(deeplab, image, how, size=size), scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [3.0, 4.0, 7.0])
@pytest.mark.parametrize("size", [(83, 62), (41, 50), (100, 75)])
def test_windows_of_an_enlarged_photo_are_scored_to_its_end(
    deeplab: NormalisingNetwork, scale: float, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are summed are then skipped: one in so many of them is wanted."""
    image, how = photo(*size), windows(32, scales=(scale,))
    scores = predict_scores(deeplab, image, how)
    for band in (1, 5 * size[1] * 7):
        monkeypatch.setattr("mgd.infer.BAND", band)
        torch.testing.assert_close(predict_scores(deeplab, image, how), scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
def test_a_whole_image_upsampled_in_rows_has_the_networks_logits(deeplab: NormalisingNetwork, flip: bool) -> None:
    image = photo(41, 50)
    with torch.no_grad():
        pixels = deeplab.normalise(image[None])
        expected = deeplab(pixels) + (deeplab(pixels.flip(-1)).flip(-1) if flip else 0)
    found = predict_scores(deeplab, image, Evaluate(mode="whole", flip=flip))
    torch.testing.assert_close(found, expected[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(7, 9), (20, 31), (13, 5), (1, 1)])
def test_rows_are_resized_as_the_whole_is(size: tuple[int, int], align_corners: bool) -> None:
    class Source:
        size = (13, 17)
        rows = staticmethod(lambda start, stop: scores[:, start:stop])

    scores = torch.randn(3, 13, 17, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(scores[None], size=size, mode="bilinear", align_corners=align_corners)[0]
    resized = Resized(Source(), size, align_corners=align_corners)
    found = torch.cat([resized.rows(row, min(row + 3, size[0])) for row in range(0, size[0], 3)], dim=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_photo_is_scaled_as_uint8_by_opencv() -> None:
    image = photo(21, 34)
    expected = cv2.resize(image.permute(1, 2, 0).numpy(), None, fx=0.75, fy=0.75, interpolation=cv2.INTER_LINEAR)
    assert torch.equal(resize_photo(image, 0.75), torch.from_numpy(expected).permute(2, 0, 1))
    assert resize_photo(photo(3, 40), 0.1).shape == (3, 1, 4)


def test_windows_are_normalised_with_the_networks_own_statistics(pixelwise: NormalisingNetwork) -> None:
    image = photo(10, 12)
    before = predict_scores(pixelwise, image, windows(16))
    pixelwise.mean, pixelwise.std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    mean, std = (torch.tensor(values)[:, None, None] for values in (pixelwise.mean, pixelwise.std))
    expected = pixelwise((image[None] / 255 - mean) / std)[0]
    found = predict_scores(pixelwise, image, windows(16))
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-5)
    assert not torch.allclose(found, before, atol=1e-2)


def test_scores_that_are_not_finite_are_no_labels(pixelwise: NormalisingNetwork) -> None:
    pixelwise.get_parameter("bias").data[2] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        predict_labels(pixelwise, photo(8, 8), WHOLE)


def test_bf16_is_close_and_not_the_same(deeplab: NormalisingNetwork) -> None:
    image = photo(41, 50)
    exact = predict_scores(deeplab, image, WHOLE)
    rough = predict_scores(deeplab, image, Evaluate(mode="whole", precision="bf16"))
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.1 * exact.abs().max()


class _ByCudnn(TorchFunctionMode):
    """Notes of every convolution whether it is depthwise, and whether cuDNN may do it, or try what is fastest."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, bool, bool]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d:
            cudnn = torch.backends.cudnn
            self.seen.append((args[6] > 1, cudnn.enabled, cudnn.benchmark))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "timm:tf_efficientnet_lite0"])
def test_on_a_gpu_nothing_is_compiled_or_tried_out_for_the_size_of_a_photo(
    monkeypatch: pytest.MonkeyPatch, backbone: str
) -> None:
    network, image = build_model(backbone, 3, channels=8).eval(), torch.zeros(1, 3, 64, 64)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)  # as in training
    with torch.no_grad(), _ByCudnn() as usual, any_size(torch.device("cpu")):
        expected = network(image)
    with torch.no_grad(), _ByCudnn() as noted, any_size(torch.device("cuda")):
        assert torch.equal(network(image), expected)
    assert all(enabled and tries for _, enabled, tries in usual.seen)
    assert {depthwise for depthwise, *_ in noted.seen} == {True, False}
    assert all(enabled != depthwise and not tries for depthwise, enabled, tries in noted.seen)
    assert torch.backends.cudnn.enabled
    assert torch.backends.cudnn.benchmark


def test_a_convolution_that_fails_leaves_cudnn_on() -> None:
    with pytest.raises(RuntimeError), any_size(torch.device("cuda")):
        F.conv2d(torch.zeros(1, 4, 8, 8), torch.zeros(4, 1, 3, 3), groups=3)
    assert torch.backends.cudnn.enabled
