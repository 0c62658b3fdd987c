"""The data set of the examples: 1,797 handwritten digits of 8 x 8 pixels, in `digits.npz` beside this file.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
1998, doi 10.24432/C50P49, CC BY 4.0; the part of it that scikit-learn ships as `load_digits`.
"""

from pathlib import Path

import numpy as np

__all__ = ["load_digits", "load_split"]

DIGITS = Path(__file__).with_name("digits.npz")
#: Highest pixel value of the data set; images are divided by it.
PIXEL_MAX = 16.0
#: Seed of the split into training and test digits.
SPLIT_SEED = 2024


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Images, float32 [1797, 1, 8, 8] in [0, 1], and labels, int64 [1797], 0 to 9."""
    with np.load(DIGITS) as file:
        images = file["images"].astype(np.float32) / np.float32(PIXEL_MAX)
        return images[:, None], file["labels"].astype(np.int64)


def load_split() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Training and test data, each ``(images, labels)``; images are float32 N x 1 x 8 x 8 in [0, 1]."""
    images, labels = load_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    test, train = order[:400], order[400:]
    return (images[train], labels[train]), (images[test], labels[test])
