"""Splitting volumes into patches and back; everything uses this order of patches and voxels."""

from torch import Tensor

from voxmim.settings import Triple


def grid_of(shape: tuple[int, ...], patch: Triple) -> Triple:
    """Number of patches along X, Y, Z of a volume whose last three axes are X, Y, Z.

    Raises:
        ValueError: the volume is not a multiple of the patch.
    """
    x, y, z = shape[-3:]
    if x % patch[0] or y % patch[1] or z % patch[2]:
        raise ValueError(f"a volume of {(x, y, z)} voxels is not a whole number of patches of {patch}")
    return x // patch[0], y // patch[1], z // patch[2]


def patchify(volume: Tensor, patch: Triple) -> Tensor:
    """(B, C, X, Y, Z) to (B, N, C*px*py*pz): patches in X, Y, Z order, Z fastest; channels slowest within one."""
    b, c = volume.shape[:2]
    gx, gy, gz = grid_of(tuple(volume.shape), patch)
    px, py, pz = patch
    split = volume.reshape(b, c, gx, px, gy, py, gz, pz)
    return split.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, gx * gy * gz, c * px * py * pz)


def unpatchify(patches: Tensor, grid: Triple, patch: Triple) -> Tensor:
    """(B, N, C*px*py*pz) to (B, C, X, Y, Z): the exact inverse of `patchify`."""
    b, _, length = patches.shape
    (gx, gy, gz), (px, py, pz) = grid, patch
    c = length // (px * py * pz)
    split = patches.reshape(b, gx, gy, gz, c, px, py, pz)
    return split.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(b, c, gx * px, gy * py, gz * pz)


def mask_to_voxels(mask: Tensor, grid: Triple, patch: Triple) -> Tensor:
    """(B, N) bool per patch to (B, 1, X, Y, Z) bool per voxel."""
    volume = mask.reshape(-1, 1, *grid)
    for axis, size in enumerate(patch):
        volume = volume.repeat_interleave(size, dim=axis + 2)
    return volume


def to_map(tokens: Tensor, grid: Triple) -> Tensor:
    """(B, N, width) tokens of a complete grid to a feature map (B, width, *grid)."""
    return unpatchify(tokens, grid, (1, 1, 1))
