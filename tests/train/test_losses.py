import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from consilia.config.space import Hyperparameters
from consilia.errors import DataError
from consilia.train.losses import focal_loss, make_loss, mix, partners_shares, smooth

CPU = torch.device("cpu")
COUNTS = np.array([70, 20, 10])


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 3, generator=generator) * 3
    labels = torch.randint(0, 3, (12,), generator=generator)
    return logits, labels, F.one_hot(labels, 3).float()


def loss_of(**options):
    return make_loss(Hyperparameters(architecture="any", **options), COUNTS, CPU)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("imbalance", ["cross_entropy", "sqrt_sampling"])
def test_cross_entropy_equals_torchs_on_class_numbers(batch, smoothing, imbalance):
    logits, labels, targets = batch
    ours = loss_of(imbalance=imbalance, label_smoothing=smoothing)(logits, targets)
    torch.testing.assert_close(ours, F.cross_entropy(logits, labels, label_smoothing=smoothing))


def test_logit_adjustment_is_the_negative_log_of_the_prior_weighted_softmax(batch):
    logits, labels, targets = batch
    ours = loss_of(imbalance="logit_adjustment", tau=0.7)(logits, targets)
    weighted = np.exp(logits.double().numpy()) * (COUNTS / COUNTS.sum()) ** 0.7
    true = weighted[np.arange(12), labels.numpy()] / weighted.sum(axis=1)
    assert ours.item() == pytest.approx(-np.log(true).mean(), rel=1e-5)


def test_logit_adjustment_with_tau_0_is_cross_entropy(batch):
    logits, labels, targets = batch
    ours = loss_of(imbalance="logit_adjustment", tau=0.0)(logits, targets)
    torch.testing.assert_close(ours, F.cross_entropy(logits, labels))


def test_logit_adjustment_refuses_a_class_without_training_images():
    options = Hyperparameters(architecture="any", imbalance="logit_adjustment")
    with pytest.raises(DataError, match=r"classes \[1\] have none"):
        make_loss(options, np.array([3, 0, 2]), CPU)


def test_focal_loss_of_two_classes_equals_torchvisions_sigmoid_form(batch):
    scores = batch[0][:, 0]
    labels = (batch[1] == 1).long()
    logits = torch.stack([torch.zeros_like(scores), scores], dim=1)
    expected = sigmoid_focal_loss(scores, labels.float(), alpha=-1, gamma=2.0, reduction="mean")
    torch.testing.assert_close(focal_loss(logits, F.one_hot(labels, 2).float()), expected)


def test_focal_loss_without_gamma_is_cross_entropy_and_smoothing_reaches_it(batch):
    logits, labels, targets = batch
    torch.testing.assert_close(focal_loss(logits, targets, gamma=0.0), F.cross_entropy(logits, labels))
    smoothed = loss_of(imbalance="focal", label_smoothing=0.1)(logits, targets)
    torch.testing.assert_close(smoothed, focal_loss(logits, smooth(targets, 0.1)))
    assert smoothed != focal_loss(logits, targets)


def test_mixing_takes_one_share_for_images_and_targets_alike(batch):
    _, _, targets = batch
    images = torch.arange(12.0).view(12, 1, 1, 1)
    share = 0.7
    mixed, mixed_targets = mix(images, targets, partners=1 - share, n_own=12)
    torch.testing.assert_close(mixed, share * images + (1 - share) * images.flip(0))
    torch.testing.assert_close(mixed_targets, share * targets + (1 - share) * targets.flip(0))
    torch.testing.assert_close(mixed_targets.sum(dim=1), torch.ones(12))


@pytest.mark.parametrize("own", [slice(0, 5), slice(5, 12), slice(4, 9)])
def test_a_part_of_a_batch_with_its_partners_is_mixed_as_the_whole_batch_mixes_it(batch, own):
    _, _, targets = batch
    images = torch.randn(12, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    whole = mix(images, targets, partners=0.3, n_own=12)
    loaded = [torch.cat([each[own], each.flip(0)[own]]) for each in (images, targets)]
    n_own = own.stop - own.start
    part = mix(*loaded, partners=0.3, n_own=n_own)
    assert all(torch.equal(mine, theirs[own]) for mine, theirs in zip(part, whole, strict=True))


def test_shares_are_drawn_for_an_epoch_as_they_would_be_batch_by_batch():
    shares, rng = partners_shares(np.random.default_rng(3), 5, alpha=0.4), np.random.default_rng(3)
    assert shares.tolist() == [1 - rng.beta(0.4, 0.4) for _ in range(5)]
    assert ((shares > 0) & (shares < 1)).all()
    assert partners_shares(rng, 5, alpha=0.0).tolist() == [0.0] * 5
