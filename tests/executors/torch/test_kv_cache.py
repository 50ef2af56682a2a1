"""The slabs: what is written where, and what it costs."""

import resource

import torch

from guidance_core.executors.torch.kv_cache import KVCache


def states(tokens: int, kv_heads: int = 2, head_dim: int = 4) -> torch.Tensor:
    return torch.randn(1, kv_heads, tokens, head_dim)


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_each_token_lands_at_its_slot_and_position():
    cache = KVCache(num_slots=3, max_len=8)
    key, value = states(3), states(3)
    cache.begin(torch.tensor([1 * 8 + 5, 0 * 8 + 0, 1 * 8 + 6]))
    keys, values = cache.update(key, value, layer_idx=0)
    assert keys.shape == values.shape == (3, 2, 8, 4)
    for token, (slot, position) in enumerate([(1, 5), (0, 0), (1, 6)]):
        assert torch.equal(keys[slot, :, position], key[0, :, token])
        assert torch.equal(values[slot, :, position], value[0, :, token])
    assert keys.count_nonzero() == key.numel()


def test_layers_are_kept_apart_and_may_differ_in_shape():
    cache = KVCache(num_slots=1, max_len=4)
    cache.begin(torch.tensor([2]))
    first, _ = cache.update(states(1), states(1), 0)
    second, narrow = cache.update(states(1, kv_heads=1, head_dim=6), states(1, kv_heads=1, head_dim=3), 1)
    assert first.shape == (1, 2, 4, 4)
    assert (second.shape, narrow.shape) == ((1, 1, 4, 6), (1, 1, 4, 3))
    assert cache.bytes_per_token == 4 * (2 * 4 * 2 + 6 + 3)


def test_copied_prefix_is_the_prefix_and_nothing_else():
    cache = KVCache(num_slots=2, max_len=8)
    cache.begin(torch.arange(16))
    keys, values = cache.update(states(16), states(16), 0)
    before = keys.clone(), values.clone()
    cache.copy_prefix(0, 1, 5)
    for slab, old in zip((keys, values), before, strict=True):
        assert torch.equal(slab[1, :, :5], old[0, :, :5])
        assert torch.equal(slab[1, :, 5:], old[1, :, 5:])
        assert torch.equal(slab[0], old[0])


def test_slots_cost_no_memory_until_they_are_used():
    cache = KVCache(num_slots=64, max_len=8192)
    cache.begin(torch.tensor([7 * 8192]))
    before = resident_bytes()
    keys, _ = cache.update(states(1, head_dim=64), states(1, head_dim=64), 0)
    grown = resident_bytes() - before
    assert keys.nbytes > 200e6
    assert grown < 5e6
