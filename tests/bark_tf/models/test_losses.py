import numpy as np
import pytest
import tensorflow as tf

from bark_tf.models.losses import cross_entropy


def by_hand(logits, labels, weights):
    total = count = 0.0
    for row in range(labels.shape[0]):
        for t in range(labels.shape[1]):
            if labels[row, t] == -100:
                continue
            shifted = logits[row, t] - logits[row, t].max()
            log_probs = shifted - np.log(np.exp(shifted).sum())
            total -= weights[row, t] * log_probs[labels[row, t]]
            count += weights[row, t]
    return total / count


@pytest.fixture
def batch():
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, (2, 5, 7))
    labels = rng.integers(0, 7, (2, 5))
    labels[0, 3:] = -100
    return logits, labels, rng.uniform(0.1, 2, (2, 5))


def test_loss_is_the_mean_over_labels_that_count(batch):
    logits, labels, _ = batch
    expected = by_hand(logits, labels, np.ones_like(logits[..., 0]))
    assert float(cross_entropy(logits, labels)) == pytest.approx(expected, rel=1e-12)


def test_sample_weights_weigh_labels(batch):
    logits, labels, weights = batch
    expected = by_hand(logits, labels, weights)
    assert float(cross_entropy(logits, labels, weights)) == pytest.approx(expected)
    per_row = np.array([0.5, 2.0])
    expected = by_hand(logits, labels, np.repeat(per_row[:, None], 5, 1))
    assert float(cross_entropy(logits, labels, per_row)) == pytest.approx(expected)


def test_half_precision_logits_give_a_float32_loss(batch):
    logits, labels, _ = batch
    loss = cross_entropy(tf.cast(logits, tf.float16), labels)
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(float(cross_entropy(logits, labels)), rel=1e-3)


def test_ignored_positions_cannot_spoil_the_loss(batch):
    logits, labels, _ = batch
    spoiled = np.where(labels[..., None] == -100, np.inf, logits)
    assert float(cross_entropy(spoiled, labels)) == float(cross_entropy(logits, labels))


def test_no_label_at_all_is_zero():
    assert float(cross_entropy(np.ones((1, 2, 3)), np.full((1, 2), -100))) == 0
