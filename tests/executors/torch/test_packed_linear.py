"""Packed layers give what the originals gave, once for those that read the same input."""

import weakref

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from guidance_core.executors.torch.packed_linear import PackedLinear, can_pack, pack_linear_layers

pytestmark = pytest.mark.skipif(
    not can_pack(torch.device("cpu"), torch.float32), reason="this PyTorch has no oneDNN packing"
)


class Block(nn.Module):
    """Three layers on one input (the third one always has a bias), one that nobody calls, a tied head."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.q = nn.Linear(16, 24, bias=bias)
        self.k = nn.Linear(16, 8, bias=bias)
        self.v = Conv1D(8, 16)
        self.out = nn.Linear(24, 16)
        self.spare = nn.Linear(16, 16)
        self.head = nn.Linear(16, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        q, k, v = self.q(x), self.k(x), self.v(x)
        return self.head(self.out(q * torch.cat([k, v, k], -1)))


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def block(request):
    torch.manual_seed(0)
    return Block(request.param).requires_grad_(False).eval()


IDS = torch.tensor([[1, 5, 3]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_stay_the_same(block, dtype):
    block.to(dtype)
    expected = block(IDS)
    pack_linear_layers(block, lambda: block(IDS))
    assert all(isinstance(layer, PackedLinear) for layer in (block.q, block.k, block.v, block.out, block.head))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for _ in range(2):
        torch.testing.assert_close(block(IDS), expected, atol=tolerance, rtol=tolerance)


def test_layers_of_the_same_input_are_one_product(block):
    all_biased = block.q.bias is not None
    pack_linear_layers(block, lambda: block(IDS))
    assert block.q.weight is block.k.weight
    assert (block.v.weight is block.q.weight) is all_biased
    assert block.out.weight is not block.q.weight


def test_joined_layers_serve_other_inputs_in_any_order(block):
    layers = [block.q, block.k]
    x, y = torch.randn(2, 1, 4, 16)
    expected = [[layer(z) for z in (x, y)] for layer in layers]
    pack_linear_layers(block, lambda: block(IDS))
    for layer, i, z in [(block.k, 1, 1), (block.k, 1, 0), (block.q, 0, 1), (block.k, 1, 1), (block.q, 0, 0)]:
        torch.testing.assert_close(layer((x, y)[z]), expected[i][z])


def test_an_input_changed_in_place_is_computed_anew(block):
    x = torch.randn(1, 4, 16)
    original = nn.Linear(16, 24)
    original.load_state_dict({"weight": block.q.weight, "bias": torch.zeros(24)})
    bias = 0 if block.q.bias is None else block.q.bias
    pack_linear_layers(block, lambda: block(IDS))
    block.q(x)
    x.add_(1)
    torch.testing.assert_close(block.q(x), original(x) + bias)


def test_original_weights_are_freed_but_for_shared_ones(block):
    own, shared = weakref.ref(block.q.weight), weakref.ref(block.embed.weight)
    pack_linear_layers(block, lambda: block(IDS))
    assert own() is None
    assert shared() is block.embed.weight


def test_a_layer_that_is_not_called_stays_as_it_is(block):
    pack_linear_layers(block, lambda: block(IDS))
    assert type(block.spare) is nn.Linear
    assert block.spare.weight is not None


def test_a_layer_called_twice_is_packed_by_itself(block):
    expected = block(IDS)
    pack_linear_layers(block, lambda: [block(IDS), block(IDS)])
    assert block.q.weight is not block.k.weight
    torch.testing.assert_close(block(IDS), expected)


def test_no_rows_give_no_rows(block):
    pack_linear_layers(block, lambda: block(IDS))
    assert block.head(torch.empty(1, 0, 16)).shape == (1, 0, 11)


def test_only_what_onednn_computes_natively_can_be_packed():
    assert not can_pack(torch.device("cuda"), torch.bfloat16)
    assert not can_pack(torch.device("cpu"), torch.float16)
