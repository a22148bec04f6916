"""The shell scripts of an attempt: what Slurm runs, and what runs on each node of it (no I/O).

The batch script claims the attempt by making a folder, which only one process can do, whatever was submitted twice or
put back in the queue; an agent that wants an attempt never to run makes that folder itself. On each node a shell then
starts the tasks, passes nothing on (signals reach the whole group), and notes which of them have come and how each task has
ended. URG, which programs do not heed, tells it to look into the file `STOP`, and to give the signal that is named there to
every process of the attempt on its node: those that have DURE_LEASE_MARK and DURE_NODE in their environment, wherever they
have gone to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from shlex import quote

from dure.executors.far import LEASES
from dure.executors.process import LEASE_MARK
from dure.executors.ranks import Rank, ranks_of
from dure.executors.slurm.engine import Shape
from dure.ports.executor import Launch

#: Exit code of a batch script that found its attempt claimed: nothing of it has run.
NOT_CLAIMED = 125
#: Below the root, beside `LEASES`: a folder for each attempt that is made by whoever claims it.
CLAIMS = "claims"
#: Below the root: of each node whether its `env` knows ``--default-signal`` (0: yes).
NODES = "nodes"
#: In the claim: somebody has come for it a second time, so that Slurm has ended the first.
AGAIN = "again"
STOP = "stop"
#: After the number of a node in the attempt: the GPUs that Slurm has given it there.
GPUS = "gpus"
#: With the name of a signal: the tasks have had it. One that a controller has dropped is sent again.
HEARD = "heard-"
#: To the shell of each node: give the signal of the stop to all of the attempt there.
STOP_WORD = "URG"

_PORTS_FROM, _NUM_PORTS = 10_000, 20_000

_BATCH = """\
#!/bin/sh
case ${{SLURM_ARRAY_TASK_ID:-0}} in
{names}
*) exit {not_claimed} ;;
esac
dure_dir={root}/{leases}/$dure_name
dure_claim={root}/{claims}/$dure_name
mkdir "$dure_claim" || {{
    : > "$dure_claim/{again}"
    exit {not_claimed}
}}
exec >> "$dure_dir/batch.log" 2>&1 < /dev/null
DURE_MASTER_PORT=$(({ports_from} + SLURM_JOB_ID % {num_ports}))
{find_port}\
export DURE_MASTER_PORT
{run}"""

# slurmrestd signals the batch script alone, where it says it to the steps; srun would end for most signals.
_RUN_STEP = """\
trap 'scancel -Q --signal={word} "$SLURM_JOB_ID"' {word}
srun {components} &
while :; do
    wait $!
    dure_code=$?
    [ $dure_code -gt 128 ] && kill -0 $! 2> /dev/null || exit $dure_code
done
"""

# The batch script runs on the first node of Slurm's order, which as a rule is that of rank 0.
_FIND_PORT = """\
while grep -qi ":$(printf %04X $DURE_MASTER_PORT) " /proc/net/tcp /proc/net/tcp6; do
    DURE_MASTER_PORT=$((DURE_MASTER_PORT + 1))
done
"""

_ATTEMPT = """\
#!/bin/sh
if [ "$1" = task ]; then
    set --
    cd {cwd} || exit 126
{setup}\
    exec {argv}
fi
dure_dir={folder}
case $SLURMD_NODENAME in
{nodes}
*) echo "dure: this attempt has no task on $SLURMD_NODENAME"; exit {not_claimed} ;;
esac
# A shell's background processes ignore these two; the job's should not. Whether a node's env can help is asked once.
dure_with=
[ -s {root}/{nodes_dir}/$SLURMD_NODENAME ] || {{
    env --default-signal=INT,QUIT true 2> /dev/null
    echo $? > {root}/{nodes_dir}/$SLURMD_NODENAME
}} 2> /dev/null
read -r dure_code < {root}/{nodes_dir}/$SLURMD_NODENAME
[ "$dure_code" != 0 ] || dure_with="env --default-signal=INT,QUIT"

# Of a step it is the first, of a batch script the second.
dure_gpus=${{SLURM_STEP_GPUS:-$SLURM_JOB_GPUS}}
[ -z "$dure_gpus" ] || echo "$dure_gpus" > "$dure_dir/$dure_node.{gpus}"

dure_marked() {{
    set -- $(grep -lszxF {mark} /proc/[0-9]*/environ)
    [ $# = 0 ] || grep -lszxF "DURE_NODE=$SLURMD_NODENAME" "$@" | cut -d/ -f3
}}

dure_kill() {{
    dure_tries=0
    while [ $dure_tries -lt 40 ]; do
        dure_pids=$(dure_marked)
        [ -n "$dure_pids" ] || return 0
        kill -KILL $dure_pids 2> /dev/null
        dure_tries=$((dure_tries + 1))
        sleep 0.02
    done
}}

dure_stop() {{
    dure_code=137
    [ ! -s "$dure_dir/{stop}" ] || read -r dure_code < "$dure_dir/{stop}"
    if [ "$dure_code" = 137 ]; then dure_kill; return; fi
    dure_pids=$(dure_marked)
    [ -z "$dure_pids" ] || kill -s $(kill -l $dure_code) $dure_pids 2> /dev/null
    : > "$dure_dir/{heard}$(kill -l $dure_code)"
}}

dure_all_ended() {{
    dure_idx=$dure_first
    while [ $dure_idx -lt $((dure_first + dure_tasks)) ]; do
        [ $dure_tasks = 1 ] || [ -s "$dure_dir/$dure_idx.exit" ] || return 1
        dure_idx=$((dure_idx + 1))
    done
}}

dure_env() {{
    command export MASTER_ADDR={master_addr} MASTER_PORT="$DURE_MASTER_PORT"
    unset DURE_MASTER_PORT
{env}
    command export RANK=$1 LOCAL_RANK=$2 NODE_RANK=$dure_node LOCAL_WORLD_SIZE=$dure_tasks WORLD_SIZE={world}
    command export DURE_NODE="$SLURMD_NODENAME" CUDA_DEVICE_ORDER=PCI_BUS_ID{no_gpus}
}}

dure_task() {{
    trap : HUP INT QUIT TERM USR1 USR2 URG
    {{
        trap : HUP INT QUIT TERM USR1 USR2 URG
        if [ -e "$dure_dir/{stop}" ]; then
            read -r dure_code < "$dure_dir/{stop}"
        else
            (
                trap - HUP INT QUIT TERM USR1 USR2 URG
                dure_env $1 $2
                exec $dure_with /bin/sh {folder}/attempt.sh task
            ) 2>&1
            dure_code=$?
        fi
        echo $dure_code > "$dure_dir/$1.exit"
        # What is left would keep the log open.
        if dure_all_ended; then dure_kill; fi
    }} 2> /dev/null | {{
        trap "" HUP INT QUIT TERM USR1 USR2 XFSZ
        (
            ulimit -f {log_max_blocks}
            exec tee -a {log_dir}/$1.log > /dev/null 2>&1
        ) || echo "
dure: the rest of this output was dropped: no room on the disk, or longer than a log may be" >> {log_dir}/$1.log
    }}
}}

trap : HUP INT QUIT USR2
trap ': > "$dure_dir/{heard}TERM"' TERM
trap ': > "$dure_dir/{heard}USR1"' USR1
trap dure_stop URG
dure_shells=
dure_idx=0
while [ $dure_idx -lt $dure_tasks ]; do
    dure_task $((dure_first + dure_idx)) $dure_idx &
    dure_shells="$dure_shells $!"
    dure_idx=$((dure_idx + 1))
done
for dure_shell in $dure_shells; do
    while kill -0 $dure_shell 2> /dev/null; do wait $dure_shell; done
done
dure_idx=$dure_first
while [ $dure_idx -lt $((dure_first + dure_tasks)) ]; do
    read -r dure_code < "$dure_dir/$dure_idx.exit" || exit 1
    [ $dure_code = 0 ] || exit $dure_code
    dure_idx=$((dure_idx + 1))
done
"""

_SETUP = """\
    . {path}
    dure_code=$?
    [ $dure_code = 0 ] || exit $dure_code
"""


def batch_script(root: PurePath, names: Mapping[int, str], shape: Shape, world: int) -> str:
    """What Slurm runs: one attempt, or as an array's task the one of its index.

    Parameters
    ----------
    root : PurePath
        Where the folders of `LEASES` and `CLAIMS` are.
    names : mapping
        Index → name of the attempt's folder.
    world : int
        Tasks of an attempt: several need a port to meet at.
    """
    shell = '/bin/sh "$dure_dir/attempt.sh"'
    run = 'set --\n. "$dure_dir/attempt.sh"\n'
    if len(shape.gpus_on) > 1:
        components = " : ".join(f"{_step_options(shape, idx)} {shell}" for idx in range(len(shape.parts)))
        run = _RUN_STEP.format(word=STOP_WORD, components=components)
    return _BATCH.format(
        names="\n".join(f"{idx}) dure_name={quote(name)} ;;" for idx, name in names.items()),
        root=quote(str(root)), leases=LEASES, claims=CLAIMS, again=AGAIN, not_claimed=NOT_CLAIMED, ports_from=_PORTS_FROM, num_ports=_NUM_PORTS, run=run,
        find_port=_FIND_PORT if world > 1 else "",
    )  # fmt: skip


def _step_options(shape: Shape, idx: int) -> str:
    part = shape.parts[idx]
    num = len(part.nodes)
    return " ".join([
        *([f"--het-group={idx}"] if len(shape.parts) > 1 else []),
        f"--nodes={num}", f"--ntasks={num}", "--ntasks-per-node=1", f"--cpus-per-task={part.cpus}", "--mpi=none",
        "--kill-on-bad-exit=0", "--wait=0", "--export=ALL",
    ])  # fmt: skip


def attempt_script(launch: Launch, folder: PurePath, addresses: Mapping[str, str], log_max_bytes: int) -> str:
    """What runs on each node of an attempt.

    Parameters
    ----------
    folder : PurePath
        The attempt's, where ``setup.sh`` is, if it has one.
    addresses : mapping
        Node → where the others reach it.
    log_max_bytes : int
        A task's log is cut there.
    """
    ranks = ranks_of(launch)
    has_gpus = any(part.gpus for part in launch.placements)
    env = {
        # Which GPUs it has, Slurm decides and says.
        **{name: value for name, value in launch.env.items() if name != "CUDA_VISIBLE_DEVICES"},
        "DURE_JOB_ID": launch.job_id,
        "DURE_ATTEMPT": str(launch.attempt),
        "DURE_LEASE_ID": launch.lease_id,
        LEASE_MARK: str(folder),
        "DURE_FENCE": str(launch.fence),
        "DURE_CHECKPOINT_DIR": launch.checkpoint_dir,
    }
    return _ATTEMPT.format(
        cwd=quote(launch.cwd or launch.log_dir),
        setup=_SETUP.format(path=quote(str(folder / "setup.sh"))) if launch.setup else "",
        argv=" ".join(quote(word) for word in launch.argv),
        folder=quote(str(folder)), root=quote(str(folder.parent.parent)), nodes_dir=NODES, nodes=_cases(ranks), not_claimed=NOT_CLAIMED, mark=quote(f"{LEASE_MARK}={folder}"),
        master_addr=quote(addresses[ranks[0].node]), world=len(ranks), stop=STOP, gpus=GPUS, heard=HEARD,
        env="\n".join(f"    command export {name}={quote(value)}" for name, value in env.items()),
        no_gpus="" if has_gpus else " CUDA_VISIBLE_DEVICES=",
        log_dir=quote(launch.log_dir), log_max_blocks=max(log_max_bytes // 512, 1),
    )  # fmt: skip


def _cases(ranks: Sequence[Rank]) -> str:
    first = [rank for rank in ranks if rank.local_rank == 0]
    return "\n".join(
        f"{quote(rank.node)}) dure_node={rank.node_rank} dure_first={rank.rank} dure_tasks={rank.local_world} ;;"
        for rank in first
    )
