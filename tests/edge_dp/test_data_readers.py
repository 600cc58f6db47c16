"""What holds for every reader of dual-pixel captures, on sets built small in their published layout."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from edge_dp.data import open_dataset, recognise
from edge_dp.data.check import check_dataset
from edge_dp.data.registry import DATASETS
from edge_dp.errors import InputError

from .published_sets import BUILDERS, DISPARITY, HEIGHT, WIDTH, WITHOUT_TRUTH


@pytest.fixture(params=[name for name, entry in DATASETS.items() if entry.kind == "dual_pixel"])
def published(request, tmp_path):
    """Name, root and content of a set in its published layout."""
    root = tmp_path / "some folder"
    return request.param, root, BUILDERS[request.param](root)


def collate(samples):
    import torch

    return torch.stack([torch.from_numpy(np.concatenate([sample.left, sample.right])) for sample in samples])


def test_a_set_in_its_published_layout_is_recognised_and_read(published):
    name, root, built = published
    assert recognise(root).name == name
    dataset = open_dataset(name, root)
    assert dataset.names == built.names
    for sample in dataset:
        assert sample.left.shape == sample.right.shape == (1, HEIGHT, WIDTH)
        np.testing.assert_allclose(sample.left[0], built.left, atol=built.tolerance)
    assert [sample.name for sample in dataset] == list(built.names)
    assert dataset[-1].name == built.names[-1]
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_what_is_farther_comes_out_larger(published):
    name, root, _ = published
    sample = open_dataset(name, root)[0]
    truth = sample.depth if sample.depth is not None else sample.affine_disparity
    assert (truth is None) == (name in WITHOUT_TRUTH)
    if truth is not None:
        far, near = (sample.mask & (np.sign(DISPARITY) == sign) for sign in (1, -1))
        assert far.sum() > 0.4 * far.size
        assert near.sum() > 0.4 * near.size
        assert truth[far].min() > truth[near].max()


def test_the_check_measures_what_the_set_promises(published):
    name, root, built = published
    findings = check_dataset(root)
    assert findings.problems == ()
    assert findings.dataset == name
    assert findings.measured.dp_axis == DATASETS[name].dp_axis
    assert findings.measured.shift_along_px == pytest.approx(1, abs=0.1)
    assert findings.measured.shift_across_px < 0.1
    if name in WITHOUT_TRUTH:
        assert findings.measured.correlation is None
    else:
        assert findings.measured.correlation > 0.7
    assert findings.samples >= len(built.names)


def test_swapped_views_are_found(published):
    """Not where nothing says what is farther: there is no way to tell."""
    name, root, built = published
    if name in WITHOUT_TRUTH:
        return
    for split in DATASETS[name].splits_in(root) or (None,):
        files = open_dataset(name, root, **({"split": split} if split else {}))
        for sample in files.names:
            paths = files.paths(sample)
            spare = root / "spare"
            paths["left"].rename(spare)
            paths["right"].rename(paths["left"])
            spare.rename(paths["right"])
    problem = check_dataset(root).problems[-1]
    assert "sign: expected left(x) = right(x + d)" in problem
    assert "pass a sensor with swap_views" in problem
    mended = open_dataset(name, root, sensor=replace(open_dataset(name, root).sensor, swap_views=True))
    np.testing.assert_allclose(mended[0].left[0], built.left, atol=built.tolerance)


@pytest.mark.parametrize("workers", [0, 2])
def test_torch_loads_every_set(published, workers):
    data = pytest.importorskip("torch.utils.data", reason="the extra train is not installed")
    name, root, built = published
    if workers and name not in ("xin2021", "google2019"):  # starting workers takes a second or more
        pickle.loads(pickle.dumps(open_dataset(name, root)))
        return
    loader = data.DataLoader(open_dataset(name, root), batch_size=2, num_workers=workers, collate_fn=collate)
    batches = list(loader)
    assert sum(len(batch) for batch in batches) == len(built.names)
    assert batches[0].shape[1:] == (2, HEIGHT, WIDTH)
    np.testing.assert_allclose(batches[0][0, 0], built.left, atol=built.tolerance)


def test_a_missing_right_view_is_named(published):
    name, root, built = published
    path = open_dataset(name, root).paths(built.names[0])["right"]
    path.unlink()
    with pytest.raises(InputError, match=r"expected (beside .*left|1 images|beside)|expected \d+ images") as caught:
        open_dataset(name, root)
    assert str(path if not name.startswith("dpdd") else path.parent) in str(caught.value)
    assert any(str(path.parent) in problem for problem in check_dataset(root).problems)
