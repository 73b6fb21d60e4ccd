import os
import time
from types import SimpleNamespace

import psutil
import pytest
import torch

from quillgpt import device, load, measuring
from quillgpt.device import (
    Memory,
    Peak,
    autocast,
    choose_device,
    choose_dtype,
    choose_threads,
    memory,
    peak,
    seconds_per_call,
    to_device,
)
from quillgpt.errors import CheckpointError, DeviceError
from quillgpt.measuring import Allowance, Kept
from quillgpt.process import MemoryGroup

CPU = torch.device("cpu")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpu", "device = gpu is no device; expected auto, cpu, cuda, cuda:N or mps"),
        ("cuda:x", "device = cuda:x is no device; expected"),
        ("cuda", "device = cuda, but PyTorch sees no CUDA device here; use --device=cpu"),
        ("mps", "device = mps, but PyTorch sees no Apple GPU here; use --device=cpu"),
        ("meta", "device = meta is not supported; expected auto, cpu"),
    ],
)
def test_a_device_that_is_not_there_is_named_with_what_to_do(name, words):
    with pytest.raises(DeviceError) as caught:
        choose_device(name)
    assert words in str(caught.value)


def test_a_gpu_beyond_the_last_is_named_with_those_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="there are 2 CUDA devices here, cuda:0 to cuda:1"):
        choose_device("cuda:2")


def test_auto_prefers_cuda_then_mps_then_the_cpu(monkeypatch):
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=cuda: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=mps: there)
        assert choose_device("auto").type == expected


def test_float16_on_a_cpu_is_refused():
    with pytest.raises(DeviceError, match="float16 is slow and imprecise on a CPU; use bfloat16 or float32"):
        choose_dtype("float16", CPU)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(("bfloat16_rate", "expected"), [(2e9, torch.bfloat16), (0.5e9, torch.float32)])
def test_auto_takes_the_faster_format(bfloat16_rate, expected, monkeypatch):
    rates = {torch.float32: 1e9, torch.bfloat16: bfloat16_rate}
    monkeypatch.setattr("quillgpt.device.matmul_rate", lambda device, dtype, **_: rates[dtype])
    assert choose_dtype("auto", CPU) is expected


@pytest.mark.usefixtures("home")
def test_a_choice_is_made_once_per_machine(monkeypatch):
    monkeypatch.setattr("quillgpt.measuring._busy_seconds", time.process_time)  # no other program computes
    first = choose_dtype("auto", CPU)
    monkeypatch.setattr("quillgpt.device.matmul_rate", lambda *_, **__: pytest.fail("measured again"))
    assert choose_dtype("auto", CPU) is first


@pytest.mark.parametrize("number", [65 * (os.cpu_count() or 1), 100_000, 10**30])
def test_more_threads_than_the_machine_has_cores_for_are_not_started(number, monkeypatch, capsys):
    before = torch.get_num_threads()
    try:
        assert choose_threads(number) <= os.cpu_count()
        assert f"threads = {number}, but this machine has" in capsys.readouterr().err
        monkeypatch.setenv("OMP_NUM_THREADS", str(number))
        assert choose_threads(None) <= os.cpu_count()
        assert torch.ones(300, 300).matmul(torch.ones(300, 300))[0, 0] == 300
    finally:
        torch.set_num_threads(before)


def test_threads_are_those_asked_for_or_those_of_the_environment(monkeypatch):
    before = torch.get_num_threads()
    try:
        assert choose_threads(1) == torch.get_num_threads() == 1
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert choose_threads(None) == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "many")
        assert choose_threads(None) >= 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("home")
def test_the_peak_is_published_for_known_gpus_and_measured_elsewhere(monkeypatch):
    monkeypatch.setattr("quillgpt.device.matmul_rate", lambda *_, **__: 7e9)
    assert peak(CPU, torch.float32).flops_per_second == 7e9
    assert "measured" in peak(CPU, torch.float32).source
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 PCIe")
    assert peak(torch.device("cuda"), torch.bfloat16).flops_per_second == 756e12
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-80GB")
    assert peak(torch.device("cuda"), torch.bfloat16).source == "published peak of A100"


@pytest.mark.usefixtures("home")
def test_a_peak_that_was_measured_on_a_busy_machine_is_measured_again_and_the_best_one_kept(monkeypatch):
    rates = iter([2e9, 1e9, 5e9, 3e9])
    crowds = iter([3.0, 3.0, 3.0, 0.0])
    monkeypatch.setattr(device, "matmul_rate", lambda *_, **__: next(rates))
    monkeypatch.setattr(measuring, "with_crowd", lambda measure: Kept(measure(), next(crowds)))
    monkeypatch.setattr(psutil, "cpu_count", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    busy = [peak(CPU, torch.float32) for _ in range(3)]
    assert [one.flops_per_second for one in busy] == [2e9, 2e9, 5e9]
    assert all("measured while other programs used the processor" in one.source for one in busy)
    for _ in range(2):  # once more on the quiet machine, which is the last time
        assert peak(CPU, torch.float32) == Peak(5e9, "measured matrix product")
    assert next(rates, None) is None


class Call:
    """Counts its calls and lasts as long as it is told."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.calls = clock, seconds, 0

    def __call__(self):
        self.calls += 1
        self.clock.now += self.seconds


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


@pytest.mark.parametrize(
    ("seconds_of_a_call", "within", "calls"),
    [(0.01, 9.0, 6), (0.01, 0.035, 3), (2.0, 9.0, 2), (2.0, 3.0, 1), (2.0, 0.0, 1)],
)
def test_calls_end_in_time_and_one_is_always_made(seconds_of_a_call, within, calls, clock):
    call = Call(clock, seconds_of_a_call)
    assert seconds_per_call(call, CPU, within) == pytest.approx(seconds_of_a_call)
    assert call.calls == calls


@pytest.mark.parametrize(("operations_per_second", "sides"), [(1e12, [128, 256, 512]), (1e7, [128]), (1e8, [128, 256])])
def test_a_slow_machine_multiplies_small_matrices(operations_per_second, sides, clock, monkeypatch):
    tried = []

    def multiply(a, _):
        tried.append(len(a))
        clock.now += 2 * len(a) ** 3 / operations_per_second

    monkeypatch.setattr(torch, "matmul", multiply)
    assert device.matmul_rate(CPU, torch.float32, within=1.0) == pytest.approx(operations_per_second)
    assert sorted(set(tried)) == sides
    assert clock.now < 1.0 or sides == [128]


@pytest.mark.usefixtures("home")
def test_what_is_measured_is_taken_from_the_time_for_it(clock, monkeypatch):
    def measure(*_, within, **__):
        clock.now += within
        return 1e9

    monkeypatch.setattr(device, "matmul_rate", measure)
    allowance = Allowance(10.0, clock=time.perf_counter)
    before = allowance.left
    choose_dtype("auto", CPU, allowance)
    peak(CPU, torch.float32, allowance)
    peak(CPU, torch.float32, allowance)  # which is kept
    assert allowance.left == pytest.approx(0.9 * 0.9 * before)


def test_the_fastest_of_several_calls_counts():
    calls = []
    assert 0 < seconds_per_call(lambda: calls.append(1), CPU) < 0.01
    assert len(calls) > 2


def test_autocast_computes_products_in_the_format_and_nothing_in_float32():
    a = torch.ones(2, 2)
    with autocast(CPU, torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
    with autocast(CPU, torch.float32):
        assert (a @ a).dtype == torch.float32


def test_a_tensor_that_is_there_already_is_not_copied():
    a = torch.ones(2)
    assert to_device(a, CPU) is a


def test_large_pages_are_asked_for_unless_the_user_decided(monkeypatch):
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    with pytest.raises(CheckpointError):
        load("no such model")
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    device.use_large_pages()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"


def test_memory_of_the_machine(monkeypatch):
    machine = memory(CPU)
    assert machine.total > machine.free > 0
    monkeypatch.setattr(device.sys, "platform", "darwin")
    assert memory(CPU).total == machine.total
    assert memory(CPU).swap is None
    monkeypatch.setattr(psutil, "PROCFS_PATH", "/nowhere")
    assert memory(CPU) is None


def test_memory_of_a_container(monkeypatch):
    machine = SimpleNamespace(total=8000 * 1024, available=6000 * 1024)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(total=0))
    monkeypatch.setattr(device, "memory_groups", lambda: [MemoryGroup(limit=4096000, used=1024000)])
    assert memory(CPU) == Memory(total=4096000, free=3072000, swap=0)
    monkeypatch.setattr(device, "memory_groups", list)
    assert memory(CPU) == Memory(total=8000 * 1024, free=6000 * 1024, swap=0)
