"""Positional encodings are unique, the same in every grid, and can be interpolated."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voxmim.networks.patches import Triple
from voxmim.networks.positions import resize_positions, rope_angles, rotate, sincos_positions

grids = st.tuples(*[st.integers(1, 5)] * 3)


@given(grid=grids, width=st.integers(6, 50))
@settings(max_examples=40, deadline=None)
def test_every_token_has_a_unique_positional_encoding(grid: Triple, width: int) -> None:
    code = sincos_positions(grid, width)
    n = grid[0] * grid[1] * grid[2]
    assert code.shape == (n, width)
    distance = torch.cdist(code, code, compute_mode="donot_use_mm_for_euclid_dist") + torch.eye(n) * 9
    assert distance.min() > 1e-2


@given(small=grids, extra=st.tuples(*[st.integers(0, 3)] * 3), width=st.sampled_from([24, 32]))
@settings(max_examples=30, deadline=None)
def test_the_positional_encoding_of_a_token_does_not_depend_on_the_grid(
    small: Triple, extra: Triple, width: int
) -> None:
    large: Triple = (small[0] + extra[0], small[1] + extra[1], small[2] + extra[2])
    in_large = sincos_positions(large, width).reshape(*large, width)[: small[0], : small[1], : small[2]]
    assert torch.equal(in_large, sincos_positions(small, width).reshape(*small, width))


def test_sines_and_cosines_agree_with_the_formula() -> None:
    grid, width = (2, 3, 4), 27
    code = sincos_positions(grid, width).reshape(*grid, width)
    for index in [(0, 0, 0), (1, 0, 2), (1, 2, 3)]:
        expected = []
        for place in index:
            angles = [place * 10000 ** (-k / 4) for k in range(4)]
            expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        torch.testing.assert_close(code[index], torch.tensor([*expected, 0.0, 0.0, 0.0]))


def test_learned_positions_are_unchanged_on_their_own_grid() -> None:
    table = torch.rand(24, 5)
    assert torch.equal(resize_positions(table, (2, 3, 4), (2, 3, 4)), table)


@pytest.mark.parametrize(("old", "new"), [((3, 4, 5), (6, 8, 10)), ((4, 4, 4), (6, 5, 7)), ((6, 6, 6), (3, 4, 5))])
def test_resized_learned_positions_keep_a_linear_ramp(old: Triple, new: Triple) -> None:
    """Positions that increase linearly along an axis of the crop do so on every grid, except at the edges."""

    def ramp(grid: Triple) -> torch.Tensor:
        middles = [(torch.arange(n) + 0.5) / n for n in grid]  # of the tokens, as fractions of the crop
        return torch.stack(torch.meshgrid(*middles, indexing="ij"), dim=-1)

    resized = resize_positions(ramp(old).reshape(-1, 3), old, new).reshape(*new, 3)
    for axis in range(3):
        low, high = 0.5 / old[axis], 1 - 0.5 / old[axis]  # no extrapolation beyond the outermost tokens
        torch.testing.assert_close(resized[..., axis], ramp(new)[..., axis].clamp(low, high))


@given(grid=grids, width=st.sampled_from([6, 12, 16, 64]), seed=st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_rope_keeps_norms_and_makes_products_depend_on_relative_positions_only(
    grid: Triple, width: int, seed: int
) -> None:
    angles = rope_angles(grid, width)[None]
    generator = torch.Generator().manual_seed(seed)
    query, key = torch.randn(2, width, generator=generator, dtype=torch.float64)
    everywhere = angles.shape[1]
    queries = rotate(query.expand(1, 1, everywhere, -1), angles)[0, 0]
    keys = rotate(key.expand(1, 1, everywhere, -1), angles)[0, 0]
    torch.testing.assert_close(queries.norm(dim=-1), query.norm().expand(everywhere))
    places = torch.cartesian_prod(*(torch.arange(n) for n in grid)).reshape(-1, 3)
    products = queries @ keys.T
    met: dict[tuple[int, ...], float] = {}
    for i in range(everywhere):
        for j in range(everywhere):
            difference = tuple((places[j] - places[i]).tolist())
            assert float(products[i, j]) == pytest.approx(met.setdefault(difference, float(products[i, j])), abs=1e-5)


def test_rope_frequencies_decrease_from_one_along_each_axis() -> None:
    angles = rope_angles((2, 2, 3), 14)
    assert angles.shape == (12, 7)
    slow = 20.0**-0.5
    last = torch.tensor(
        [1, slow, 1, slow, 2, 2 * slow, 0.0]
    )  # the token at (1, 1, 2); the remaining pair is not rotated
    torch.testing.assert_close(angles[-1], last)
