"""The one table of sbatch's options (Slurm 22.05 has them all): how each is honoured, or why it is refused."""

from __future__ import annotations

from dure.cli.slurm.getopt import Option, Takes

_NO, _MAYBE = Takes.NOTHING, Takes.MAYBE


def _refused(name: str, short: str = "", takes: Takes = Takes.VALUE, why: str = "") -> Option:
    return Option(name, short, takes, why, is_refused=True)


HONOURED: tuple[Option, ...] = (
    Option("account", "A", meaning="`project` (member/project)"),
    Option("array", "a", meaning="`array`: 0-15, 1,3,5-9:2, and %4 for `limit`"),
    Option("begin", "b", meaning="`begin`, in this machine's time zone"),
    Option("chdir", "D", meaning="`workdir`; default: this folder"),
    Option("comment", meaning="variable SLURM_JOB_COMMENT"),
    Option("constraint", "C", meaning="`gpu_types`: one, or some with | between them"),
    Option("cpus-per-gpu", meaning="`cpus`: times the GPUs"),
    Option("cpus-per-task", "c", meaning="`cpus`: times the tasks"),
    Option("dependency", "d", meaning="`depends_on`: afterok, afterany, afternotok, with commas between them"),
    Option("error", "e", meaning="a copy of standard error, in a file on the first node"),
    Option("export", meaning="`env`: NONE (the default here), names, NAME=value, or ALL (all but DURE_* and SLURM_*)"),
    Option("gpus", "G", meaning="`gpus`, of the whole job; TYPE:COUNT also `gpu_types`"),
    Option("gpus-per-node", meaning="`gpus_per_node`; times the nodes `gpus`"),
    Option("gpus-per-task", meaning="times the tasks `gpus`; srun gives each task its own"),
    Option("gres", meaning="gpu[:TYPE][:COUNT]: as --gpus-per-node; other resources are refused"),
    Option("help", "h", _NO, meaning="this"),
    Option("job-name", "J", meaning="`name`; default: the script's file name"),
    Option("json", "", _NO, meaning="print JSON (Dure's own): the ids; of srun, the job's end, and its log to standard error"),
    Option("kill-on-invalid-dep", meaning="only `yes`, which is what happens"),
    Option("mem", meaning="`mem_gib`: times the nodes; not 0 (all of a node)"),
    Option("mem-per-cpu", meaning="`mem_gib`: times the CPU cores"),
    Option("mem-per-gpu", meaning="`mem_gib`: times the GPUs"),
    Option("nice", "", _MAYBE, meaning="`priority`: above 0 best-effort; below 0 is refused"),
    Option("nodes", "N", meaning="with GPUs: `gpus_per_node`; one number, no range"),
    Option("ntasks", "n", meaning="what srun starts, over all nodes; variable SLURM_NTASKS"),
    Option("ntasks-per-gpu", meaning="as --ntasks, times the GPUs"),
    Option("ntasks-per-node", meaning="what srun starts on each node"),
    Option("open-mode", meaning="append or truncate the files of --output and --error"),
    Option("output", "o", meaning="a copy of the log, in a file on the first node; %j %A %a %x %u %N %n %t %% (default: none)"),
    Option("parsable", "", _NO, meaning="print the id alone"),
    Option("partition", "p", meaning="`sites`, with commas between them"),
    Option("qos", "q", meaning="`priority`: high, normal, or low and best-effort"),
    Option("quiet", "Q", _NO, meaning="print nothing but errors"),
    Option("requeue", "", _NO, meaning="what Dure always does with a job that must leave or whose node failed"),
    Option("signal", meaning="`checkpoint`: TERM or USR1, and so many seconds before SIGKILL, whenever it must leave"),
    Option("switches", meaning="only 1, without a time: `topology` block"),
    Option("test-only", "", _NO, meaning="check the script and its options, hand nothing in"),
    Option("time", "t", meaning="`time_limit`; 0: none"),
    Option("version", "V", _NO, meaning="Dure's version"),
    Option("wait", "W", _NO, meaning="end when the job does, with its exit code"),
    Option("wrap", meaning="a command in place of a script, run by sh"),
)

_NODES = "nodes are chosen by the policy; -p names sites, -C GPU types"
_CPU = "CPUs are not bound to sockets or threads"
_ROOT = "a job runs as its agent does"
_MAIL = "Dure sends no mail"
_EXCLUSIVE = "ask for all GPUs of a node with --gpus-per-node"
_NETWORK = "there is no such resource"
_TIME = "give one --time"

REFUSED: tuple[Option, ...] = (
    _refused("acctg-freq", why="usage is measured always"),
    _refused("batch", why=_NODES),
    _refused("bb", why="there are no burst buffers"),
    _refused("bbf", why="there are no burst buffers"),
    _refused("cluster-constraint", why=_NODES),
    _refused("clusters", "M", why="one alliance is one cluster; -p names sites"),
    _refused("container", why="start it in the script"),
    _refused("contiguous", "", _NO, why=_NODES),
    _refused("core-spec", "S", why=_CPU),
    _refused("cores-per-socket", why=_CPU),
    _refused("cpu-freq", why="frequencies are left alone"),
    _refused("deadline", why=_TIME),
    _refused("delay-boot", why="nodes are not booted for jobs"),
    _refused("distribution", "m", why="tasks are dealt node by node"),
    _refused("exclude", "x", why=_NODES),
    _refused("exclusive", "", _MAYBE, why=_EXCLUSIVE),
    _refused("export-file", why="use --export"),
    _refused("extra-node-info", "B", why=_CPU),
    _refused("get-user-env", "", _MAYBE, why="use --export, or set it up in the script"),
    _refused("gid", why=_ROOT),
    _refused("gpu-bind", why="use --gpus-per-task"),
    _refused("gpu-freq", why="frequencies are left alone"),
    _refused("gpus-per-socket", why=_CPU),
    _refused("gres-flags", why=_CPU),
    _refused("hint", why=_CPU),
    _refused("hold", "H", _NO, why="hand it in when it may start, or use --begin"),
    _refused("ignore-pbs", "", _NO, why="#PBS lines are never read"),
    _refused("input", "i", why="standard input is empty; read the file in the script"),
    _refused("licenses", "L", why=_NETWORK),
    _refused("mail-type", why=_MAIL),
    _refused("mail-user", why=_MAIL),
    _refused("mcs-label", why=_NETWORK),
    _refused("mem-bind", why=_CPU),
    _refused("mincpus", why="use --cpus-per-task"),
    _refused("network", why=_NETWORK),
    _refused("no-kill", "k", _MAYBE, why="a gang that loses a node starts anew from its checkpoint"),
    _refused("no-requeue", "", _NO, why="a job that must leave always starts again"),
    _refused("nodefile", "F", why=_NODES),
    _refused("nodelist", "w", why=_NODES),
    _refused("ntasks-per-core", why=_CPU),
    _refused("ntasks-per-socket", why=_CPU),
    _refused("overcommit", "O", _NO, why="give --ntasks"),
    _refused("oversubscribe", "s", _NO, why=_EXCLUSIVE),
    _refused("power", why="the site's power cap holds for all"),
    _refused("prefer", why="use --constraint"),
    _refused("priority", why="the order comes from shares; -q and --nice name a class"),
    _refused("profile", why="nothing is sampled"),
    _refused("propagate", "", _MAYBE, why="set limits in the script"),
    _refused("reboot", "", _NO, why="nodes are not booted for jobs"),
    _refused("reservation", why="use `reserve` in a job file (docs/jobs.md)"),
    _refused("sockets-per-node", why=_CPU),
    _refused("spread-job", "", _NO, why=_NODES),
    _refused("thread-spec", why=_CPU),
    _refused("threads-per-core", why=_CPU),
    _refused("time-min", why=_TIME),
    _refused("tmp", why="disk space is not counted"),
    _refused("uid", why=_ROOT),
    _refused("usage", "", _NO, why="use --help"),
    _refused("use-min-nodes", "", _NO, why="give --nodes"),
    _refused("verbose", "v", _NO, why="use --test-only, or --json"),
    _refused("wait-all-nodes", why="a gang always starts with all of its nodes"),
    _refused("wckey", why="use --account"),
)

SBATCH = HONOURED + REFUSED

#: What srun takes besides, inside and outside of a job.
SRUN_OWN = (
    Option("kill-on-bad-exit", "K", _MAYBE, meaning="stop the other tasks when one fails"),
    Option("label", "l", _NO, meaning="its task's number before each line"),
    Option("unbuffered", "u", _NO, meaning="what is done always"),
)
_NOT_OF_SRUN = ("array", "begin", "wrap", "parsable", "wait", "test-only", "signal", "output", "error", "open-mode")

#: srun outside of a job: sbatch's without those of a batch.
SRUN = tuple(option for option in SBATCH if option.name not in _NOT_OF_SRUN) + SRUN_OWN
