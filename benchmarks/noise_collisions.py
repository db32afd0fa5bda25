"""Does noise repeat? The first words of 4 seeds × 200,000 samples × all streams, 12 million of them.

    python benchmarks/noise_collisions.py [--seeds 4] [--samples 200000]

Takes about two minutes of one core. Prints a row a word size: how many pairs of first words agree, in the low 64, 40 and 32 bits of
what each generator gives first, and how many would by chance, n(n - 1)/2^(bits + 1) of n random words. Equal noise would add
to all rows alike. Then the same for the first word of `torch_generator`, over a quarter of one seed's samples; two samples
that shared their noise when 32 bits of a seed were kept; and what drawing costs. Exits 1 where a count is one that chance
gives less than once in 100,000 times.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch
from scipy.stats import poisson

from noiseshift.diffusion.noise import STREAMS, generators, normal, torch_generator


def first_words(seed: int, stream: int, samples: int) -> np.ndarray:
    """(samples,) uint64."""
    sources = (generators([index], seed=seed, stream=stream)[0] for index in range(samples))
    return np.fromiter((source.bit_generator.random_raw() for source in sources), np.uint64, samples)


def torch_words(seed: int, stream: int, samples: int) -> np.ndarray:
    """(samples,) the first 32 bits that each sample's torch generator draws."""
    sources = (torch_generator(generators([index], seed=seed, stream=stream)[0]) for index in range(samples))
    drawn = (int(torch.empty(1, dtype=torch.int64).random_(0, 2**32, generator=source)) for source in sources)
    return np.fromiter(drawn, np.uint64, samples)


def agreeing(words: np.ndarray) -> int:
    """Pairs of equal words."""
    counts = np.unique(words, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def judge(name: str, words: np.ndarray, bits: int) -> bool:
    """Print a row; whether it is as chance would have it."""
    found = agreeing(words & np.uint64((1 << bits) - 1))
    expected = len(words) * (len(words) - 1) / 2.0 ** (bits + 1)
    fine = min(poisson.cdf(found, expected), poisson.sf(found - 1, expected)) > 1e-5
    print(f"{name:>24} {len(words):>12,} words {bits:>3} bits: {found:>8,} pairs agree, {expected:>11,.3f} by chance")
    return bool(fine)


def cost() -> None:
    """Milliseconds to make 256 generators and to draw (256, 1, 28, 28) from them."""
    start = time.perf_counter()
    sources = generators(range(256), seed=0, stream=0)
    made = time.perf_counter()
    for _ in range(10):
        normal(sources, (1, 28, 28))
    drawn = (time.perf_counter() - made) / 10
    print(f"256 generators: {1000 * (made - start):.1f} ms; (256, 1, 28, 28) drawn: {1000 * drawn:.1f} ms")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--samples", type=int, default=200_000)
    options = parser.parse_args()
    parts = [first_words(seed, stream, options.samples) for seed in range(options.seeds) for stream in STREAMS]
    words = np.concatenate(parts)
    fine = [judge("generator", words, bits) for bits in (64, 40, 32)]
    fine.append(judge("torch_generator", torch_words(0, 1, options.samples // 4), 32))
    once = normal(generators([7971, 10991], seed=6, stream=0), (4,))
    print(f"seed 6, samples 7971 and 10991, once the same: {once[0].tolist()} and {once[1].tolist()}")
    fine.append(not torch.equal(*once))
    cost()
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())
