"""Augmentation of scans with missing channels."""

from __future__ import annotations

from dataclasses import replace

import torch

from augmentations import EVERYTHING, SPACING, some_batch
from voxmim.store.augment import apply, draw


def test_missing_channels_stay_zero_and_do_not_change_the_others() -> None:
    """Also in the mean used for contrast: a channel changes equally with and without a missing one."""
    batch = some_batch()
    batch.image[1, 0], batch.image[3, 1] = 0, 0
    batch.present[1, 0] = batch.present[3, 1] = False
    settings = replace(EVERYTHING, noise=0.0, intensity=1.0)
    changed = apply(batch, draw(settings, batch.seed), SPACING).image
    for crop, absent in ((1, 0), (3, 1)):
        assert not changed[crop, absent].any()
        alone = batch._replace(image=batch.image[:, 1 - absent :][:, :1], present=torch.ones(4, 1, dtype=torch.bool))
        expected = apply(alone, draw(settings, batch.seed), SPACING).image[crop, 0]
        torch.testing.assert_close(changed[crop, 1 - absent], expected)
    full = apply(some_batch(), draw(settings, batch.seed), SPACING).image
    assert torch.equal(changed[[0, 2]], full[[0, 2]])
