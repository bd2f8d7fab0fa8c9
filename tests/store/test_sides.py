"""Left and right labels are found by name, and augmentation never exchanges them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from voxmim.settings import Augmentation
from voxmim.store.augment import apply, draw
from voxmim.store.crops import Batch
from voxmim.store.sides import Sides, find_sides

BTCV = ["spleen", "rkid", "lkid", "gall", "eso", "liver", "sto", "aorta", "IVC", "veins", "pancreas", "rad", "lad"]
AMOS = ["spleen", "right kidney", "left kidney", "liver", "right adrenal gland", "left adrenal gland", "postcava"]
OPENKBP = ["Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Mandible"]
HAN_SEG = ["Bone_Mandible", "Parotid_L", "Parotid_R", "Glnd_Lacrimal_L", "Glnd_Lacrimal_R", "Lips", "Larynx"]
FREESURFER = ["Left-Hippocampus", "Right-Hippocampus", "ctx-lh-cuneus", "ctx-rh-cuneus", "Left-Lateral-Ventricle",
              "Right-Lateral-Ventricle", "Brain-Stem"]  # fmt: skip
GLUED = ["LKidney", "RKidney", "OpticNrvL", "OpticNrvR", "lungleft", "lungright", "Lens", "Rectum"]
UPPER = ["LEFT_EYE", "RIGHT_EYE", "LT FEMUR", "RT FEMUR", "Hip (left)", "Hip (right)", "vertebrae_L5", "liver"]


def pairs(names: list[str]) -> tuple[set[frozenset[str]], tuple[str, ...]]:
    labels = dict(enumerate(names, start=1))
    sides = find_sides(labels)
    assert all(sides.partner[other] == value for value, other in sides.partner.items())
    return {frozenset((labels[one], labels[other])) for one, other in sides.partner.items()}, sides.unpaired


@pytest.mark.parametrize(
    ("names", "paired"),
    [
        (BTCV, [(1, 2), (11, 12)]),
        (AMOS, [(1, 2), (4, 5)]),
        (OPENKBP, [(2, 3)]),
        (HAN_SEG, [(1, 2), (3, 4)]),
        (FREESURFER, [(0, 1), (2, 3), (4, 5)]),
        (GLUED, [(0, 1), (2, 3), (4, 5)]),
        (UPPER, [(0, 1), (2, 3), (4, 5)]),
    ],
)
def test_left_right_pairs_are_found_in_the_names_of_real_data_sets(
    names: list[str], paired: list[tuple[int, int]]
) -> None:
    assert pairs(names) == ({frozenset((names[one], names[other])) for one, other in paired}, ())


@pytest.mark.parametrize("names", [
    ["liver", "spleen", "Lung", "rectum", "L5", "vertebrae_L1", "cleft", "bright spot", "left and right lung"],
    ["edema", "rim", "enhancing"], [], ["label 1", "label 2"],
])  # fmt: skip
def test_names_without_a_side_have_no_pairs(names: list[str]) -> None:
    assert not find_sides(dict(enumerate(names, start=1)))


@pytest.mark.parametrize(
    "name", ["left atrium", "lung_middle_lobe_right", "Cochlea_L", "Left", "heart_ventricle_left", "LeftBreast"]
)
def test_a_side_without_a_partner_is_named(name: str) -> None:
    assert find_sides({1: "liver", 2: name}) == Sides({}, (name,))


def test_the_left_and_right_heart_are_not_mirror_images() -> None:
    assert set(find_sides({1: "RV", 2: "myocardium", 3: "LV"}).unpaired) == {"RV", "LV"}
    assert find_sides({1: "left ventricle", 2: "right ventricle"}).partner == {}


def test_regions_with_a_side_need_a_partner_with_the_mirrored_labels() -> None:
    labels = {1: "kidney_left", 2: "kidney_right", 3: "tumour_left", 4: "tumour_right"}
    both = {"left side": (1, 3), "right side": (2, 4), "tumour": (3, 4)}
    assert find_sides(labels, both).unpaired == ()
    assert find_sides(labels, {"left side": (1, 3)}).unpaired == ("left side",)
    assert find_sides({1: "label 1", 2: "label 2"}, {"left": (1,), "right": (2,)}).unpaired == ("left", "right")


STRONG = Augmentation(flip=0.5, rot90=0.5, affine=1.0, rotate=180.0)


def test_without_sides_augmentation_is_not_restricted() -> None:
    assert Sides().restrict(STRONG) == (STRONG, [])


def test_with_pairs_flips_are_allowed_and_quarter_turns_are_not() -> None:
    settings, notes = Sides({1: 2, 2: 1}).restrict(STRONG)
    assert settings == replace(STRONG, rot90=0.0, rotate=45.0)
    assert notes == [
        "Quarter turns are off: the labels tell left from right.",
        "Rotations stay below 45 degrees: the labels tell left from right.",
    ]


def test_with_a_side_without_a_partner_flips_along_x_are_not_allowed() -> None:
    settings, notes = Sides({}, ("left atrium",)).restrict(replace(STRONG, rot90=0.0, affine=0.0))
    assert not settings.flip_x
    assert notes == ["Flips along X are off: the mirror image of these labels has no label (left atrium)."]
    assert not draw(settings, torch.arange(50)).flip[:, 0].any()
    assert draw(settings, torch.arange(50)).flip[:, 1].any()


def test_augmentation_never_exchanges_left_and_right() -> None:
    """Labels of the two sides stay on their sides along X, and the image stays aligned with them."""
    label = torch.zeros(64, 1, 12, 12, 12, dtype=torch.int64)
    label[:, :, 1:5, 4:8, 4:8], label[:, :, 7:11, 4:8, 4:8], label[:, :, 5:7] = 1, 2, 5
    image = (label > 0).float()  # both sides look the same
    batch = Batch(image, label, torch.arange(64), [""] * 64, torch.ones(64, 1, dtype=torch.bool))
    sides = find_sides({1: "kidney_left", 2: "kidney_right", 5: "spine"})
    settings, _ = sides.restrict(Augmentation(flip=0.5, rot90=0.5, affine=0.0, intensity=0.0))
    drawn = draw(settings, batch.seed, sides.partner)
    assert drawn.flip[:, 0].any()
    augmented = apply(batch, drawn, (1.0, 1.0, 1.0))
    assert (augmented.label == 1).sum() == (label == 1).sum()
    assert not (augmented.label[:, :, 6:] == 1).any()
    assert not (augmented.label[:, :, :6] == 2).any()
    assert torch.equal(augmented.image, (augmented.label > 0).float())
    unaware = apply(batch, draw(Augmentation(flip=0.5, intensity=0.0), batch.seed), (1.0, 1.0, 1.0))
    assert (unaware.label[:, :, 6:] == 1).any()  # what the names prevent
