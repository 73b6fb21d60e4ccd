import json
import subprocess
import sys
import time

import psutil
import pytest
import torch

from quillgpt import measuring
from quillgpt.measuring import Allowance, Kept, OutOfTimeError, remember, with_crowd


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("minutes", "seconds"), [(None, 20), (0.2, 3), (1.0, 15), (2.0, 20), (3.0, 20), (4.0, 24), (60.0, 360)]
)
def test_measuring_may_take_a_tenth_of_the_minutes_or_twenty_seconds(minutes, seconds):
    assert Allowance(minutes).left == pytest.approx(seconds)


def test_each_measurement_may_take_a_share_of_what_is_left():
    now = [0.0]
    allowance = Allowance(10.0, clock=lambda: now[0])
    with allowance.spending(0.5) as first:
        now[0] += 20.0
    with allowance.spending(0.5) as second:
        now[0] += 50.0
    with allowance.spending(0.5) as third:
        pass
    assert (first, second, third) == (30.0, 20.0, 0.0)


def test_a_measurement_is_kept_by_its_key(home):
    assert remember("a", lambda: 1.5) == 1.5
    assert remember("b", lambda: {"x": 2.0}) == {"x": 2.0}
    assert remember("a", lambda: pytest.fail("measured again")) == 1.5
    assert len(json.loads((home / "measurements.json").read_text())) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe"])
def test_a_damaged_cache_is_measured_again_and_mended(content, home):
    home.mkdir()
    (home / "measurements.json").write_bytes(content)
    assert remember("a", lambda: 1.5) == 1.5
    assert remember("a", lambda: pytest.fail("measured again")) == 1.5


@pytest.mark.parametrize("crowd", ["1" + 400 * "0", "NaN", "-1", "1e999", '"x"', "null", "[]"])
def test_a_load_that_cannot_be_is_none(crowd, home):
    remember("a", lambda: 1.5)
    path = home / "measurements.json"
    (key,) = json.loads(path.read_text())
    path.write_text(f'{{"{key}": {{"result": 1.5, "crowd": {crowd}}}}}')
    assert remember("a", lambda: pytest.fail("measured again")) == 1.5


def test_a_step_of_the_clock_is_no_crowd(monkeypatch):
    busy = iter((5.0, 5.01))
    monkeypatch.setattr("quillgpt.measuring._busy_seconds", lambda: next(busy))
    assert not with_crowd(lambda: 1.5).was_crowded


def test_a_cache_that_cannot_be_written_costs_a_measurement_only(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "file" / "home"))
    assert remember("a", lambda: 1.5) == 1.5


def test_another_version_measures_anew(home, monkeypatch):
    remember("a", lambda: 1.5)
    monkeypatch.setattr("quillgpt.measuring.__version__", "99")
    assert remember("a", lambda: 2.5) == 2.5


def test_what_other_programs_compute_is_counted():
    def idle():
        time.sleep(0.3)
        return 1

    program = "print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        kept = with_crowd(idle)
        other.kill()
    assert kept.result == 1
    assert kept.crowd > 0.2


@pytest.mark.parametrize("damage", ["x", None, 3, {}, {"fast": 1.0, "slow": "x"}, {"fast": -1, "slow": 1.0}])
def test_what_is_no_measurement_is_measured_again(home, damage):
    known = {"fast": 2.0, "slow": 1.0}
    assert remember("a", lambda: known, of=("fast", "slow")) == known
    path = home / "measurements.json"
    path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text()), damage)))
    assert remember("a", lambda: known, of=("fast", "slow")) == known


@pytest.fixture
def crowds(monkeypatch):
    """The load of the coming measurements, first to last, on a machine of four cores with one thread."""
    monkeypatch.setattr(psutil, "cpu_count", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    crowds = []
    monkeypatch.setattr(measuring, "with_crowd", lambda measure: Kept(measure(), crowds.pop(0)))
    return crowds


def test_what_was_measured_in_a_crowd_is_measured_again_when_there_is_less_of_one(crowds):
    crowds += [6.0]
    assert remember("a", lambda: 1.0) == 1.0
    crowds += [5.9]  # the machine now, which is as busy
    assert remember("a", lambda: pytest.fail("measured again")) == 1.0
    crowds += [3.6, 3.6]
    assert remember("a", lambda: 2.0) == 2.0
    crowds += [0.5, 0.5]
    assert remember("a", lambda: 3.0) == 3.0
    assert remember("a", lambda: pytest.fail("measured again")) == 3.0
    assert not crowds


def test_what_there_is_no_time_to_measure_again_is_kept(crowds):
    def take_too_long():
        raise OutOfTimeError

    with pytest.raises(OutOfTimeError):
        remember("a", take_too_long)
    crowds += [6.0, 0.0]
    assert remember("a", lambda: 1.0) == 1.0
    assert remember("a", take_too_long) == 1.0
