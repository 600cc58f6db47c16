import torch

from edge_dp.models.registry import build_student
from edge_dp.training.loop.mirrored import mirrored_mean


def shifted(left, right):
    """Stands for a network: what it says depends on the views' order and on the place in the image."""

    def disparity(views):
        ramp = torch.arange(4.0)[:, None] * 10 + torch.arange(6.0)
        return left * views[:, :1] + right * views[:, 1:] + ramp

    return disparity


def test_mean_of_the_four_mirror_images_by_hand():
    """Each view counts as left and as right, and a ramp over the image becomes its mean."""
    views = torch.rand(3, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    expected = (3.0 + 1.0) / 2 * views.sum(1, keepdim=True) + (15 + 2.5)
    torch.testing.assert_close(mirrored_mean(shifted(3.0, 1.0), views), expected)


def test_mirrored_views_give_the_mirrored_mean():
    """Whatever the network: left and right have traded places, and so has the map."""
    torch.manual_seed(1)
    student = build_student("dp_disparity_xs").eval()
    views = torch.rand(2, 2, 64, 96)

    def disparity(seen):
        return student(seen)[0]

    mean = mirrored_mean(disparity, views)
    assert not mean.requires_grad
    for seen, axes in ((views.flip(1, 3), [3]), (views.flip(2), [2])):
        torch.testing.assert_close(mirrored_mean(disparity, seen), mean.flip(axes), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(disparity(seen), disparity(views).flip(axes), atol=1e-3)
