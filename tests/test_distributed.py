"""Processes and batch norm: what synchronising must not change."""

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn

from mgd.engine import loop
from mgd.models import build_model


def test_synchronising_batch_norm_keeps_a_network_that_fuses_activations_into_it():
    torch.manual_seed(0)
    network = build_model("timm:mobilenetv3_small_050", 4, channels=16).eval()
    image = torch.randn(2, 3, 64, 64)
    before = network(image)
    converted = convert_sync_batchnorm(network)
    assert loop.convert_sync_batchnorm is convert_sync_batchnorm
    assert any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())
    torch.testing.assert_close(converted.eval()(image), before)
