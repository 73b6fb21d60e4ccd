import pytest

from quillgpt.config.schema import TrainSettings
from quillgpt.optim.schedule import cosine, learning_rate, warmup_stable_decay

COSINE = {"highest": 1e-3, "lowest": 1e-4, "warmup": 100, "end": 1100}
WSD = {"highest": 1.0, "lowest": 0.1, "warmup": 10, "end": 100, "decay_fraction": 0.3}


@pytest.mark.parametrize(
    ("iteration", "expected"),
    [
        (0, 1e-3 / 101),
        (49, 1e-3 * 50 / 101),
        (99, 1e-3 * 100 / 101),
        (100, 1e-3),
        (350, 1e-4 + 9e-4 * (2 + 2**0.5) / 4),  # cos 45 degrees
        (600, 5.5e-4),
        (850, 1e-4 + 9e-4 * (2 - 2**0.5) / 4),
        (1100, 1e-4),
        (5000, 1e-4),
    ],
)
def test_cosine_is_nanogpts(iteration, expected):
    assert cosine(iteration, **COSINE) == pytest.approx(expected, rel=1e-12)


def test_cosine_without_warmup_starts_at_the_top():
    assert cosine(0, highest=1.0, lowest=0.0, warmup=0, end=10) == 1.0


@pytest.mark.parametrize("schedule", [cosine, warmup_stable_decay])
def test_a_warmup_as_long_as_the_run_divides_by_nothing(schedule):
    more = {"decay_fraction": 0.5} if schedule is warmup_stable_decay else {}
    rates = [schedule(i, highest=1.0, lowest=0.1, warmup=4, end=4, **more) for i in range(6)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.1, 0.1])


@pytest.mark.parametrize(
    ("iteration", "expected"),
    [(0, 1 / 11), (9, 10 / 11), (10, 1.0), (69, 1.0), (70, 1.0), (85, 0.55), (99, 0.13), (100, 0.1), (200, 0.1)],
)
def test_warmup_stable_decay_rises_stays_and_falls(iteration, expected):
    assert warmup_stable_decay(iteration, **WSD) == pytest.approx(expected, rel=1e-12)


def test_warmup_stable_decay_reaches_the_top_even_where_the_fall_takes_the_whole_run():
    rates = [warmup_stable_decay(i, **WSD | {"decay_fraction": 1.0}) for i in range(101)]
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)


@pytest.mark.parametrize("share", [1e-320, 1e-17, 1e-3])
def test_a_fall_shorter_than_an_iteration_divides_by_nothing(share):
    rates = [warmup_stable_decay(i, **WSD | {"decay_fraction": share}) for i in range(101)]
    assert rates[10:] == [1.0] * 90 + [0.1]


def test_settings_choose_the_schedule():
    base = {"learning_rate": 1.0, "min_lr": 0.1, "warmup_iters": 10, "lr_decay_iters": 100}
    assert learning_rate(85, TrainSettings(**base, lr_schedule="wsd")) == pytest.approx(0.55)
    assert learning_rate(55, TrainSettings(**base)) == pytest.approx(0.55)
    assert learning_rate(99, TrainSettings(**base)) < 0.11
    assert learning_rate(0, TrainSettings(**base, decay_lr=False)) == 1.0
