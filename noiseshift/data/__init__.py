"""Image sets: folders and zips of pictures, npz and npy arrays, MNIST-style idx files, and the bundled reference set.

Pictures are kept as uint8 (N, C, H, W) and become floats in [-1, 1] only where they are used. Floats (latents, vectors,
signals, pictures whose range was given) are kept as floats, in the scale that a network works on. Whatever had to be
assumed is said in `Images.about`; what cannot be known is refused.
"""

from noiseshift.data.fit import misfit
from noiseshift.data.images import Images, to_float, to_uint8
from noiseshift.data.labels import for_checkpoint
from noiseshift.data.ranges import Range
from noiseshift.data.sources import ASSETS, Part, load_idx, load_images, reference

__all__ = [
    "ASSETS",
    "Images",
    "Part",
    "Range",
    "for_checkpoint",
    "load_idx",
    "load_images",
    "misfit",
    "reference",
    "to_float",
    "to_uint8",
]
