"""Jobs of unlike processes: who is what, and what cannot be."""

import json
import os
import subprocess
import sys

import pytest

from dure.client.roles import part_of
from dure.model.errors import InputError
from dure.model.job_file import load_work

ROLES = [{"name": "simulate", "tasks": 3, "command": ["sim"], "env": {"A": "1"}}, {"name": "score", "tasks": 1, "command": ["score"], "env": {}}]


def test_the_last_ranks_are_the_roles():
    parts = [part_of(rank, 6, ["learn"], ROLES) for rank in range(6)]
    assert [(part.role, part.rank, part.size, part.command[0]) for part in parts] == [
        ("main", 0, 2, "learn"), ("main", 1, 2, "learn"), ("simulate", 0, 3, "sim"), ("simulate", 1, 3, "sim"), ("simulate", 2, 3, "sim"), ("score", 0, 1, "score"),
    ]  # fmt: skip
    assert [part.env for part in parts] == [{}, {}, {"A": "1"}, {"A": "1"}, {"A": "1"}, {}]


def run(rank, world_size, roles=ROLES):
    env = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(world_size), "DURE_ROLES": json.dumps(roles)}
    command = [sys.executable, "-P", "-m", "dure.client.roles", "sh", "-c", "echo $DURE_ROLE $DURE_ROLE_RANK/$DURE_ROLE_SIZE"]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_a_rank_becomes_its_command():
    assert run(1, 6).stdout == "main 1/2\n"
    assert run(3, 6).returncode == 127
    assert "sim: No such file" in run(3, 6).stderr


def test_roles_that_leave_no_rank_are_told_where_it_is_known():
    done = run(0, 4)
    assert done.returncode == 2
    assert "roles of 4 tasks leave none of 4" in done.stderr
    file = "name: x\ncommand: [a]\nresources: {gpus: 4}\ntasks_per_node: 0\nroles:\n  - {name: simulate, tasks: 4, command: [b]}\n"
    with pytest.raises(InputError, match="`roles` of 4 tasks leave none of 4"):
        load_work(file, "job.yaml")
    assert load_work(file.replace("tasks: 4", "tasks: 3"), "job.yaml").roles[0].tasks == 3
