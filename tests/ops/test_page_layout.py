"""What lies in a page lies there in the same order whatever the processor: it may be saved."""

import pytest
import torch
from random_decoder import SHAPES, Cache, Decoder

from deepseek.ops import native
from deepseek.ops.hierarchical import GROUP, PAGE, Hierarchy
from deepseek.ops.native_model import NewTokens

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
HIERARCHY = Hierarchy(sinks=64, window=128, recall=192, dense=0, reach=100_000)


@pytest.mark.parametrize("shape", SHAPES)
def test_all_levels_write_the_same_pages(shape) -> None:
    n_pages = GROUP + 2
    decoder, best = Decoder(shape, seed=4), native.level()
    x = decoder.embeddings(n_pages * PAGE)
    caches = []
    try:
        for level in native.levels():
            native.use_level(level)
            cache = Cache(shape, n_pages)
            decoder.native.set_cache(cache.pages)
            decoder.native.set_memory(cache.memory)
            decoder.native.set_hierarchy(HIERARCHY)
            pages = tuple(range(n_pages))
            new = NewTokens(count=len(x), length=0, pages=pages, memory=(0, 1))
            decoder.native.forward([new], embeddings=x.clone())
            caches.append(cache)
    finally:
        native.use_level(best)
    for other in caches[1:]:
        for kind in ("pages", "memory"):
            one, two = getattr(caches[0], kind), getattr(other, kind)
            # Later layers see what earlier ones rounded otherwise; a node may be another outlier.
            pairs = [(one.keys[0], two.keys[0]), *zip(one.values[:1], two.values[:1], strict=True)]
            for a, b in pairs:
                a, b = (t.float().nan_to_num(7.0) for t in (a, b))
                near = torch.isclose(a, b, atol=0.02, rtol=0.02).float().mean()
                assert float(near) > 0.99
