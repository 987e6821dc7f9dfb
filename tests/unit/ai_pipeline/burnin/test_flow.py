"""Flow is told from annotation by its colours and by being filled."""

from __future__ import annotations

import numpy as np
import pytest

from ai_pipeline.burnin.annotation.pixels import Picture
from ai_pipeline.burnin.find.flow import colour_bars, find_flow
from tests.unit.ai_pipeline.phantoms import burn, echo, flow


def power() -> tuple[Picture, np.ndarray]:
    """A vessel of power Doppler: yellow inside, orange, red at its rim."""
    picture = np.repeat(echo()[..., None], 3, axis=2)
    y, x = np.mgrid[0 : picture.shape[0], 0 : picture.shape[1]]
    depth = ((x - 240) / 60) ** 2 + ((y - 190) / 14) ** 2
    vessel = depth < 1
    shade = np.stack([np.full_like(depth, 250), 230 * np.clip(1 - depth, 0, 1), 0 * depth], axis=2)
    picture[vessel] = shade.astype(np.uint8)[vessel]
    return picture, vessel


@pytest.mark.parametrize("made", [flow(echo()), power()], ids=["colour", "power"])
def test_flow_is_found(made: tuple[Picture, np.ndarray]) -> None:
    picture, vessel = made
    assert find_flow(picture)[vessel].mean() > 0.95


@pytest.mark.parametrize("colour", [(255, 230, 0), (60, 80, 255), (255, 40, 40), (255, 255, 255)])
def test_text_is_none_whatever_its_colour(colour: tuple[int, int, int]) -> None:
    picture = burn(np.repeat(echo()[..., None], 3, axis=2), "KIM MINJUN 1970", (12, 10), colour, 20)
    assert not find_flow(picture).any()


def test_a_colour_bar_is_none() -> None:
    picture = np.repeat(echo()[..., None], 3, axis=2)
    picture[40:140, 6:18] = np.linspace((255, 0, 0), (0, 0, 255), 100)[:, None].astype(np.uint8)
    assert not find_flow(picture).any()
    assert not find_flow(echo()).any()


def test_specks_in_flows_colours_are_flow_beside_it_alone() -> None:
    picture, vessel = power()
    rows = np.flatnonzero(vessel.any(axis=1))
    near = (slice(rows.max() + 6, rows.max() + 11), slice(240, 245))
    far = (slice(20, 25), slice(20, 25))
    picture[near] = picture[far] = (220, 90, 0)
    found = find_flow(picture)
    assert found[near].all()
    assert not found[far].any()


def test_a_colour_bar_in_two_halves_is_none() -> None:
    picture = np.repeat(echo()[..., None], 3, axis=2)
    picture[40:72, 6:32] = np.linspace((250, 240, 0), (150, 20, 0), 32)[:, None].astype(np.uint8)
    picture[72:76, 6:32] = (20, 0, 0)
    picture[76:108, 6:32] = np.linspace((150, 20, 0), (250, 240, 0), 32)[:, None].astype(np.uint8)
    assert not find_flow(picture).any()


def test_a_colour_bar_is_one_and_a_vessel_or_letters_are_none() -> None:
    picture, vessel = flow(echo())
    shades = np.linspace(70, 255, 60).astype(np.uint8)
    picture[40:100, 440:456] = 0
    picture[40:100, 440:456, 0] = shades[:, None]
    written = burn(picture, "KIM MINJUN", (4, 4), (255, 30, 30), 24)
    bars = colour_bars(written)
    assert bars[42:98, 441:455].all()
    assert not bars[vessel].any() and not bars[:40, :200].any()
