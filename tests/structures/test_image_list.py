import pytest
import torch

from maskrcnn_benchmark.structures.image_list import ImageList, to_image_list


def test_images_are_padded_at_the_right_and_the_bottom():
    images = [torch.rand(3, 5, 7), torch.rand(3, 9, 4)]
    batch = to_image_list(images, size_divisible=8)
    assert batch.tensors.shape == (2, 3, 16, 8) and batch.image_sizes == [(5, 7), (9, 4)] and len(batch) == 2
    for image, padded in zip(images, batch.tensors, strict=True):
        torch.testing.assert_close(padded[:, : image.shape[1], : image.shape[2]], image)
        assert padded.count_nonzero() == image.count_nonzero()
    assert to_image_list(images).tensors.shape == (2, 3, 9, 7)


def test_other_inputs():
    image = torch.rand(3, 5, 7)
    single = to_image_list(image)
    assert single.tensors.shape == (1, 3, 5, 7) and single.image_sizes == [(5, 7)]
    padded = to_image_list(image, 4)
    assert padded.tensors.shape == (1, 3, 8, 8) and padded.image_sizes == [(5, 7)]
    batch = torch.rand(2, 3, 8, 4)
    assert to_image_list(batch, 4).tensors is batch
    padded = to_image_list(batch, 32)
    assert padded.tensors.shape == (2, 3, 32, 32) and padded.image_sizes == [(8, 4), (8, 4)]
    assert to_image_list(padded, 64) is padded
    moved = padded.to("cpu")
    assert isinstance(moved, ImageList) and moved.image_sizes == padded.image_sizes


def test_bad_inputs():
    with pytest.raises(ValueError, match="no image"):
        to_image_list([])
    with pytest.raises(TypeError, match="not str"):
        to_image_list("image.jpg")
    with pytest.raises(ValueError, match="same number of channels"):
        to_image_list([torch.rand(3, 4, 4), torch.rand(1, 4, 4)])
    with pytest.raises(ValueError, match=r"not \(4, 4\)"):
        to_image_list(torch.rand(4, 4))
