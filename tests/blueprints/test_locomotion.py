"""Hops learnt by PPO: what it computes, and that it goes on exactly."""

import os
import signal
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
from tests.blueprints.modules import ModulesOf

from dure.client.blueprints import catalogue_folder
from dure.client.resuming import assert_resumes_exactly

torch = pytest.importorskip("torch")
pytest.importorskip("gymnasium")
pytest.importorskip("mujoco")

FOLDER = catalogue_folder() / "locomotion"
SMALL = ["--steps", "2000", "--envs", "4", "--rollout-steps", "128", "--episodes", "3", "--film", "0"]


@pytest.fixture
def ppo(modules_of: ModulesOf) -> ModuleType:
    return modules_of(FOLDER)("ppo")


@pytest.fixture
def hopper(modules_of: ModulesOf) -> ModuleType:
    return modules_of(FOLDER)("hopper")


def test_moments_of_batches_are_those_of_all(ppo: ModuleType) -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(5, 2, (1000, 4))
    moments = ppo.Moments(4)
    for part in np.split(rows, (1, 10, 500)):
        moments.add(part)
    assert moments.mean == pytest.approx(rows.mean(0), rel=1e-6)
    assert moments.var == pytest.approx(rows.var(0), rel=1e-5)


def test_advantages_are_sums_of_discounted_errors(ppo: ModuleType) -> None:
    rng = np.random.default_rng(5)
    gamma, lam, num = 0.9, 0.8, 12
    rewards, worth, after = rng.normal(size=(3, num, 1))
    ended = np.zeros((num, 1), dtype=bool)
    ended[[4, 9]] = True
    after[4] = 0.0  # a fall; after 9 the episode was cut off, and what would have come counts
    gains = ppo.advantages(rewards, worth, after, ended, gamma, lam)
    errors = rewards + gamma * after - worth
    for t in range(num):
        last = next((s for s in (4, 9) if s >= t), num - 1)
        assert gains[t, 0] == pytest.approx(sum((gamma * lam) ** (s - t) * errors[s, 0] for s in range(t, last + 1)))


def test_numpy_acts_as_torch_does(ppo: ModuleType) -> None:
    torch.manual_seed(1)
    model = ppo.ActorCritic(11, 3, 32)
    with torch.no_grad():
        model.actor[4].weight.mul_(100)
    seen = np.random.default_rng(1).normal(size=(5, 11)).astype(np.float32)
    with torch.no_grad():
        expected = model.actor(torch.from_numpy(seen)).numpy()
    assert ppo.NumpyActor(model).mean(seen) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_likelihood_is_a_gaussians(ppo: ModuleType) -> None:
    model = ppo.ActorCritic(11, 3, 8)
    with torch.no_grad():
        model.log_std.copy_(torch.tensor([0.3, -0.2, 0.0]))
    seen, actions = torch.randn(6, 11), torch.randn(6, 3)
    expected = torch.distributions.Normal(model.actor(seen), model.log_std.exp()).log_prob(actions).sum(1)
    torch.testing.assert_close(model.log_likelihood(seen, actions), expected)


def test_hoppers_go_on_bit_equal_from_a_state(hopper: ModuleType) -> None:
    seed = 7
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (120, 3, 3))
    first = hopper.Hoppers(3, seed)
    for action in actions[:50]:
        first.step(action)
    state = first.state()
    rest = [first.step(action) for action in actions[50:]]
    assert any(step.ended for step in rest), f"no episode ended after the state was taken (seed {seed})"
    second = hopper.Hoppers(3, seed + 1)
    second.restore(state)
    for step, action in zip(rest, actions[50:], strict=True):
        again = second.step(action)
        for name in ("seen", "final", "rewards", "fell", "cut_off"):
            assert np.array_equal(getattr(step, name), getattr(again, name)), f"{name} differs (seed {seed})"
        assert step.ended == again.ended


def test_an_episode_is_cut_off_in_time(hopper: ModuleType) -> None:
    hoppers = hopper.Hoppers(2, 1)
    hoppers.lengths[1] = hopper.EPISODE_STEPS - 1
    step = hoppers.step(np.zeros((2, 3)))
    assert step.cut_off.tolist() == [False, True]
    assert step.ended[0][1] == hopper.EPISODE_STEPS
    assert not np.array_equal(step.seen[1], step.final[1])
    assert hoppers.lengths.tolist() == [1, 0]


def test_changed_dynamics_change_the_simulation(hopper: ModuleType) -> None:
    nominal = hopper.make_hopper()
    heavy = hopper.make_hopper(hopper.Dynamics(mass=1.2, friction=0.8, torque=0.9))
    assert heavy.model.body_mass == pytest.approx(nominal.model.body_mass * 1.2)
    assert heavy.model.geom_friction[:, 0] == pytest.approx(nominal.model.geom_friction[:, 0] * 0.8)
    assert heavy.model.dof_invweight0 != pytest.approx(nominal.model.dof_invweight0), "MuJoCo was not told"

    def push(seen: np.ndarray) -> np.ndarray:
        return np.full((1, 3), 0.5)

    assert hopper.play_episode(nominal, push, 3) != hopper.play_episode(heavy, push, 3)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--steps", "0"], ["--spread", "1"], ["--device", "none"]])
def test_bad_arguments_are_refused(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "train.py", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("number", "stop_after"), [(signal.SIGTERM, [2, 1]), (signal.SIGUSR1, [5])])
def test_it_goes_on_exactly(tmp_path, number: int, stop_after: list[int]) -> None:
    story = assert_resumes_exactly("locomotion", ["train.py", *SMALL], tmp_path, stop_after, number=number)
    assert sorted(story.series) == list(range(1, 4 + 6 + 1))


@pytest.mark.slow
def test_a_folder_of_other_parameters_is_refused(tmp_path) -> None:
    env = {"DURE_CHECKPOINT_DIR": str(tmp_path / "c"), "DURE_OUTPUT_DIR": str(tmp_path / "o"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "train.py", "--steps", "64", "--envs", "2", "--rollout-steps", "32", "--episodes", "1"]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, "--film", "0", *more],
            cwd=FOLDER,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=False,
        )

    done = run()
    assert done.returncode == 0, done.stderr
    refused = run("--gamma", "0.9")
    assert refused.returncode == 2
    assert "other parameters" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
