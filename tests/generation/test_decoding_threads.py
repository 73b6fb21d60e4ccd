import pytest
import torch

from quillgpt.config.schema import Sampling
from quillgpt.generation import decoding_threads, generate_ids
from quillgpt.generation.decoding_threads import DecodingThreads, numbers_to_try
from quillgpt.model import for_inference
from tiny import GPT2, tiny_model


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


class Machine:
    """Steps that take as long as it says, on a clock of its own, and the numbers of threads that computed them."""

    def __init__(self, seconds):
        self.seconds, self.now, self.used, self.result = seconds, 0.0, [], lambda threads: 1.0
        self.threads = DecodingThreads(lambda: self.now)

    def step(self):
        self.used.append(torch.get_num_threads())
        self.now += self.seconds[self.used[-1]]
        return torch.tensor(self.result(self.used[-1]))

    def run(self, seconds):
        """Compute steps for so long; return how many, and the result of the last."""
        end, steps = self.now + seconds, 0
        while self.now < end:
            result = self.threads.compute(self.step)
            steps += 1
        return steps, result


QUIET = {4: 0.010, 3: 0.013, 2: 0.020, 1: 0.040}
BUSY = {4: 0.500, 3: 0.014, 2: 0.021, 1: 0.040}
CROWDED = {4: 0.500, 3: 0.400, 2: 0.300, 1: 0.080}
SMALL = {4: 0.0005, 3: 0.0005, 2: 0.0003, 1: 0.0002}


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize(("seconds", "best"), [(QUIET, 4), (BUSY, 3), (CROWDED, 1), (SMALL, 1)])
def test_steps_are_computed_by_the_fastest_number_of_threads_but_for_a_few(seconds, best):
    steps, _ = Machine(seconds).run(30)
    assert steps > 0.8 * 30 / seconds[best]


@pytest.mark.usefixtures("four_threads")
def test_the_number_follows_a_machine_that_becomes_busy_and_quiet_again():
    machine = Machine(QUIET)
    for seconds, best in ((QUIET, 4), (CROWDED, 1), (QUIET, 4), (BUSY, 3)):
        machine.seconds = seconds
        machine.run(30)
        steps, _ = machine.run(30)
        assert steps > 0.8 * 30 / seconds[best]
        assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_threads")
def test_numbers_that_round_differently_are_never_used_and_it_is_said_once(capsys):
    machine = Machine(CROWDED)
    machine.result = lambda threads: 1.0 if threads in (2, 4) else 1.0 + 2**-20
    steps, _ = machine.run(30)
    assert steps > 0.6 * 30 / CROWDED[2]
    for _ in range(20):
        assert machine.threads.compute(machine.step) == 1.0
    capsys.readouterr()
    machine = Machine(CROWDED)
    machine.result = float
    assert machine.run(30)[1] == 4
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("4 threads wait for each other; --threads=1 is faster, but rounds differently") == 1


def test_one_thread_stays_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    machine = Machine(QUIET)
    torch.set_num_threads(before)
    assert machine.threads.compute(lambda: torch.tensor(before)) == before


@pytest.mark.usefixtures("four_threads")
def test_the_threads_are_given_back_when_a_step_fails():
    machine = Machine(CROWDED)
    machine.run(30)
    with pytest.raises(ZeroDivisionError):
        machine.threads.compute(lambda: 1 / 0)
    assert torch.get_num_threads() == 4


def test_numbers_from_all_threads_down_to_one():
    assert [numbers_to_try(most) for most in (1, 2, 3, 8)] == [[1], [2, 1], [3, 2, 1], [8, 7, 4, 2, 1]]


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_sample_does_not_depend_on_the_numbers_that_are_tried(dtype, monkeypatch):
    model = for_inference(tiny_model(GPT2), dtype)
    asked = Sampling(num_samples=2, max_new_tokens=60, seed=3)

    def drawn():
        return torch.stack(list(generate_ids(model, [1, 2], asked, vocab_size=65)))

    monkeypatch.setattr(decoding_threads, "numbers_to_try", lambda most: [most])
    expected = drawn()
    tried = []

    def every_number(most):
        tried.append(most)
        return [most, 3, 2, 1]

    monkeypatch.setattr(decoding_threads, "numbers_to_try", every_number)
    monkeypatch.setattr(decoding_threads, "SHORTEST", 0.0)
    monkeypatch.setattr(decoding_threads, "CLEARLY_SLOWER", 1e9)
    monkeypatch.setattr(decoding_threads, "LONGEST_PAUSE", 0.0)
    assert torch.equal(drawn(), expected)
    assert tried
