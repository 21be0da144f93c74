"""Training pictures: what is kept of them, which crops are drawn, and how photographs are varied."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from data.dataset import PictureSet
from data.images import ImageKind


class Plain(ImageKind):
    """Crops of 8x8 pixels, as they are drawn."""

    crop_shape = (8, 8)
    stretch = (1.0, 1.0)

    def augment(self, crop, rng):
        return crop


class Stretched(Plain):
    stretch = (2.0, 2.0)


@pytest.fixture
def picture_set(tmp_path):
    """A set of pictures of given pixels."""

    def of(*pictures, kind=Plain) -> PictureSet:
        paths = [tmp_path / f"{number}.png" for number in range(len(pictures))]
        for path, pixels in zip(paths, pictures):
            Image.fromarray(pixels).save(path)
        return PictureSet(kind(), paths, progress=False)

    return of


def ramp(height: int, width: int) -> np.ndarray:
    """Pixels that say where they are: 4 levels of red for each row, as many of green for each column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([4 * rows, 4 * columns, 0 * rows], axis=-1).astype(np.uint8)


def levels(pictures: torch.Tensor) -> np.ndarray:
    """(..., 3, h, w) in [-1, 1] -> float64 (..., h, w, 3) in 0..255."""
    return (pictures.double() + 1).movedim(-3, -1).numpy() * 127.5


def drawn(data: PictureSet, n_crops: int) -> np.ndarray:
    return levels(data.batch(n_crops, np.random.default_rng(0)))


# -- crops -------------------------------------------------------------------------------------------


def test_pictures_are_kept_in_8_bits_and_come_back(picture_set, ramp_image):
    data = picture_set(ramp_image)
    assert data.pictures[0].dtype == torch.uint8
    np.testing.assert_allclose(levels(data.picture(0)), ramp_image, atol=1e-4)


def test_every_sample_of_every_picture_is_as_likely(picture_set):
    """The white picture has three times as many as the black one."""
    crops = drawn(picture_set(np.zeros((8, 8, 3), np.uint8), np.full((8, 24, 3), 255, np.uint8)), 400)
    assert 0.7 < crops.mean() / 255 < 0.8


class Named(Plain):
    """Whose pictures are of whoever their first letter says."""

    def speaker_of(self, path):
        return path.name[0]


def test_who_is_in_many_pictures_does_not_drown_the_others(picture_set, tmp_path):
    """White has nine times as many samples as black, in pictures of two sizes, and is drawn three times as often."""
    paths = [tmp_path / name for name in ("black.png", "white.png", "white_more.png")]
    for path, width in zip(paths, (8, 8, 64)):
        Image.fromarray(np.full((8, width, 3), 255 * (path.name[0] == "w"), np.uint8)).save(path)
    data = PictureSet(Named(), paths, progress=False)
    assert data.weights == pytest.approx([1 / 4, 3 / 36, 24 / 36])
    assert 0.7 < drawn(data, 400).mean() / 255 < 0.8


class Joined(Plain):
    joins_short = True


def test_short_signals_go_on_with_others(picture_set):
    """Three columns of white or black are no crop: what follows is as they are, not their last column."""
    short = [np.full((8, 3, 3), level, np.uint8) for level in (0, 255)]
    crops = drawn(picture_set(*short, kind=Joined), 40)
    assert crops.shape == (40, 8, 8, 3)
    assert sum(0 < crop.mean() < 255 for crop in crops) > 20
    assert all(crop.mean() in (0, 255) for crop in drawn(picture_set(*short), 40))


def test_crops_come_from_everywhere(picture_set):
    crops = drawn(picture_set(ramp(10, 12)), 200)
    places = {tuple(crop[0, 0, :2].round().astype(int) // 4) for crop in crops}
    assert places == {(top, left) for top in range(3) for left in range(5)}
    np.testing.assert_allclose(crops - crops[:, :1, :1], np.broadcast_to(ramp(8, 8), crops.shape), atol=1e-3)


def test_half_of_the_crops_shrink_from_up_to_twice_their_size(picture_set):
    """Rows as much as columns."""
    crops = drawn(picture_set(ramp(32, 48), kind=Stretched), 400)
    scales = np.stack([np.ptp(crops[:, 2:6, 4, 0], axis=1), np.ptp(crops[:, 4, 2:6, 1], axis=1)], axis=1) / (4 * 3)
    kept = np.isclose(scales[:, 0], 1, atol=1e-3)
    assert 0.45 < kept.mean() < 0.65  # to 8 pixels also those that would shrink by half a pixel
    np.testing.assert_allclose(scales[:, 0], scales[:, 1], atol=0.05)
    assert 1.9 < scales.max() < 2.05


def test_a_picture_smaller_than_a_crop_is_continued(picture_set):
    small = ramp(5, 6)
    expected = np.pad(small, ((0, 3), (0, 2), (0, 0)), mode="edge")
    for kind in (Plain, Stretched):
        np.testing.assert_allclose(drawn(picture_set(small, kind=kind), 9), [expected] * 9, atol=1e-3)


# -- photographs are varied ----------------------------------------------------------------------------


def test_photographs_are_mirrored_and_turned_over_and_some_get_a_rectangle():
    crop = torch.from_numpy(ImageKind().to_picture(ramp(6, 6))[0])
    turned = crop.transpose(1, 2)
    expected = {"as it was": crop, "mirrored": crop.flip(2), "turned": turned, "both": turned.flip(2)}
    before, seen = crop.clone(), Counter()
    for seed in range(2000):
        varied = ImageKind().augment(crop, np.random.default_rng(seed))
        seen[next((name for name, other in expected.items() if torch.equal(varied, other)), "covered")] += 1
    shares = {name: seen[name] / 2000 for name in (*expected, "covered")}
    half, quarter = 0.94 * 0.75 / 2, 0.94 * 0.25 / 2
    about = {"as it was": half, "mirrored": half, "turned": quarter, "both": quarter, "covered": 0.06}
    assert shares == pytest.approx(about, abs=0.03) and torch.equal(crop, before)
