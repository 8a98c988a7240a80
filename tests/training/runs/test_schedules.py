"""The learning rate's warm-up and decay."""

import numpy as np

from bark_tf.training.runs.schedules import WarmUpCosine


def test_the_learning_rate_rises_and_falls():
    schedule = WarmUpCosine(2.0, steps=110, warmup_steps=10, final_share=0.1)
    rates = [float(schedule(step)) for step in (0, 9, 10, 60, 110, 500)]
    np.testing.assert_allclose(rates, [0.2, 2.0, 2.0, 1.1, 0.2, 0.2], rtol=1e-5)
    again = WarmUpCosine.from_config(schedule.get_config())
    assert float(again(37)) == float(schedule(37))
