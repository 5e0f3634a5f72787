"""What a policy allows can be seen in the pixels, and a card that says a little keeps the rest of its modality."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from consilia.config.augmentation import POLICIES, AugmentationPolicy
from consilia.config.card import DataCard, FolderSource
from consilia.config.network import Preprocessing
from consilia.errors import PlanError
from consilia.study.plan import read_card
from consilia.train.warp import draw_warps, warp_images

SIDE, DRAWS = 32, 500
LATERAL = {name: policy for name, policy in POLICIES.items() if not (policy.flip_horizontal or policy.flip_vertical)}
MAY_FLIP = {"dermoscopy", "histology"}


def drawn(image: np.ndarray, policy: AugmentationPolicy) -> torch.Tensor:
    """Return DRAWS training views at full strength, in units of pixel / 255."""
    images = torch.from_numpy(np.broadcast_to(image[None, ..., None], (DRAWS, *image.shape, 1)).copy())
    recipe = Preprocessing(size=SIDE, channels=1, image_size=SIDE, mean=(0.0,), std=(1.0,))
    warps = draw_warps(np.random.default_rng(0), DRAWS, policy=policy, strength=1.0)
    return warp_images(images, warps, recipe)[:, 0]


def centre_x(views: torch.Tensor) -> torch.Tensor:
    """Return where the mass above the background lies, -1 (left edge) ... 1."""
    mass = (views - views.flatten(1).median(dim=1).values[:, None, None]).clamp(min=0.02) - 0.02
    columns = (torch.arange(SIDE) * 2 + 1) / SIDE - 1
    return (mass.sum(dim=1) * columns).sum(dim=1) / mass.sum(dim=(1, 2))


@pytest.mark.parametrize("place", ["top", "middle", "bottom"])
@pytest.mark.parametrize("name", LATERAL)
def test_a_marker_in_the_left_half_stays_there_wherever_flips_are_forbidden(name, place):
    top = {"top": 5, "middle": 14, "bottom": 23}[place]
    image = np.full((SIDE, SIDE), 40, np.uint8)
    image[top : top + 4, 4:8] = 230  # the side marker of a radiograph
    assert centre_x(drawn(image, POLICIES[name])).max() < -0.1


@pytest.mark.parametrize("name", POLICIES)
def test_no_policy_inverts_intensities(name):
    image = np.full((SIDE, SIDE), 128, np.uint8)
    image[12:20, 8:24] = 60  # a dark patch around a bright one: in whatever position, the middle stays brighter
    image[14:18, 10:22] = 200
    views = drawn(image, POLICIES[name])
    bright, dark = views.amax(dim=(1, 2)), views.amin(dim=(1, 2))
    ordinary = views.flatten(1).median(dim=1).values
    assert (bright - ordinary).min() > 0.15
    assert (ordinary - dark).min() > 0.1


def test_only_images_without_a_side_are_flipped_or_turned_over():
    assert set(POLICIES) - set(LATERAL) == MAY_FLIP
    for name in MAY_FLIP:
        policy = POLICIES[name]
        assert (policy.flip_horizontal, policy.flip_vertical, policy.quarter_turns) == (True, True, True)
    assert not any(policy.quarter_turns for policy in LATERAL.values())
    assert max(policy.rotate_degrees for policy in LATERAL.values()) <= 20


def test_radiographs_turn_by_15_degrees_at_most_and_sections_by_less():
    assert POLICIES["xray"].rotate_degrees <= 15
    assert POLICIES["mammography"].rotate_degrees <= 15
    assert POLICIES["ct"].rotate_degrees < POLICIES["xray"].rotate_degrees


def card(**changes) -> DataCard:
    return DataCard.model_validate({"name": "some", "source": {"kind": "folder"}, **changes})


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("nothing", [{}, {"augmentation": None}, {"augmentation": {}}])
def test_a_card_without_a_policy_takes_that_of_its_modality(name, nothing):
    assert card(modality=name, **nothing).augmentation == POLICIES[name]


def test_a_card_that_changes_one_limit_keeps_the_others_of_its_modality():
    changed = card(modality="histology", augmentation={"rotate_degrees": 10}).augmentation
    assert changed == POLICIES["histology"].model_copy(update={"rotate_degrees": 10.0})
    assert changed.flip_horizontal
    assert card(modality="ct", augmentation={"scale": 0.0}).augmentation.rotate_degrees == POLICIES["ct"].rotate_degrees


def test_a_setting_on_the_command_line_changes_one_limit_only():
    changed = read_card("phantoms", settings=["augmentation.scale=0.01"]).augmentation
    assert changed == read_card("phantoms").augmentation.model_copy(update={"scale": 0.01})


def test_a_policy_that_is_given_as_a_whole_is_taken_as_it_is():
    whole = AugmentationPolicy(rotate_degrees=3)
    assert DataCard(name="some", source=FolderSource(), modality="histology", augmentation=whole).augmentation == whole


def test_a_card_reads_back_what_it_wrote():
    first = card(modality="dermoscopy", augmentation={"translate": 0.2})
    assert DataCard.model_validate(first.model_dump(mode="json")) == first


@pytest.mark.parametrize("turns", [{"quarter_turns": True}, {"rotate_degrees": 120}])
def test_one_flip_alone_is_refused_where_turns_make_it_the_other(turns):
    with pytest.raises(ValidationError, match=r"flip_vertical with .* amounts to flip_horizontal"):
        AugmentationPolicy(flip_vertical=True, **turns)
    with pytest.raises(ValidationError, match="allow both flips or neither"):
        card(modality="histology", augmentation={"flip_vertical": False})


def test_an_unknown_limit_is_named():
    with pytest.raises(PlanError, match="rotation"):
        read_card("phantoms", settings=["augmentation.rotation=5"])
