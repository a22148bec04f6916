"""What programs that run as a job share: how they end, when they save."""

import pytest

from dure.client import job
from dure.client.saved import Saved
from dure.model.errors import InputError


def test_a_program_that_was_given_something_wrong_says_it_in_one_line(capsys):
    def main():
        raise InputError("from 1", field="--steps")

    with pytest.raises(SystemExit) as ended:
        job.run_program(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "--steps: from 1\n"


def test_a_program_that_is_wrong_itself_is_not_silenced():
    def main():
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        job.run_program(main)


@pytest.mark.parametrize(("every_s", "is_told", "is_saved"), [(3600, False, False), (0, False, True), (3600, True, True)])
def test_after_a_step_is_saved_what_is_due_or_what_leaves(tmp_path, monkeypatch, every_s, is_told, is_saved):
    monkeypatch.setattr(job, "should_stop", lambda: is_told)
    saved = Saved(tmp_path / "state.pickle", {"seed": 1}, every_s)
    if is_told:
        with pytest.raises(SystemExit) as ended:
            saved.after_step({"step": 3})
        assert ended.value.code == job.LEFT
    else:
        saved.after_step({"step": 3})
    assert (saved.load() == {"step": 3}) is is_saved


def test_what_is_no_number_is_said_as_none(capsys):
    job.report_progress(step=1, loss=float("nan"), gain=float("inf"), mean=0.5)
    assert capsys.readouterr().out == f'{job.PROGRESS}{{"step": 1, "loss": null, "gain": null, "mean": 0.5}}\n'
