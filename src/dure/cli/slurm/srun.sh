#!/bin/sh
# srun inside a job of Dure: starts this node's part of the tasks. Every node of a job runs the script, and so this.
refuse() {
  echo "dure srun: $1: is not honoured inside a job" >&2
  exit 2
}
need() {
  [ -n "$2" ] || { echo "dure srun: $1: needs a value" >&2; exit 2; }
}
ntasks='' per_node='' gpus_each=${SLURM_GPUS_PER_TASK-} label='' kill_on_bad=''
while [ $# -gt 0 ]; do
  case $1 in
    --ntasks=* | --ntasks-per-node=* | --cpus-per-task=* | --gpus-per-task=*)
      key=${1%%=*} value=${1#*=} ;;
    -n?*) key=-n value=${1#-n} ;;
    -c?*) key=-c value=${1#-c} ;;
    -n | -c | --ntasks | --ntasks-per-node | --cpus-per-task | --gpus-per-task)
      key=$1 value=${2-}
      need "$key" "$value"
      shift ;;
    -l | --label) label=1; shift; continue ;;
    -u | --unbuffered) shift; continue ;;
    -K | --kill-on-bad-exit | --kill-on-bad-exit=1 | -K1) kill_on_bad=1; shift; continue ;;
    --kill-on-bad-exit=0 | -K0) kill_on_bad=''; shift; continue ;;
    --) shift; break ;;
    -*) refuse "${1%%=*}" ;;
    *) break ;;
  esac
  case $value in
    '' | *[!0-9]*) echo "dure srun: $key: must be a whole number, not '$value'" >&2; exit 2 ;;
  esac
  case $key in
    -n | --ntasks) ntasks=$value ;;
    --ntasks-per-node) per_node=$value ;;
    -c | --cpus-per-task) export SLURM_CPUS_PER_TASK="$value" ;;
    --gpus-per-task) gpus_each=$value ;;
  esac
  shift
done
[ $# -gt 0 ] || { echo "dure srun: no command" >&2; exit 2; }

[ -z "$label" ] || [ -z "$kill_on_bad" ] || refuse '-l with -K'

nodes=${SLURM_NNODES:-1} node=${SLURM_NODEID:-0}
if [ -z "$ntasks" ]; then
  [ -n "$per_node" ] || per_node=${SLURM_NTASKS_PER_NODE-}
  if [ -n "$per_node" ]; then ntasks=$((per_node * nodes)); else ntasks=${SLURM_NTASKS:-$nodes}; fi
fi
# Equal parts; the first nodes have one more where it does not come out even.
here=$((ntasks / nodes)) more=$((ntasks % nodes))
first=$((node * here + (node < more ? node : more)))
[ "$node" -ge "$more" ] || here=$((here + 1))

gpus_from() { # a task's own part of the node's GPUs: number $1
  printf '%s' "$CUDA_VISIBLE_DEVICES" | cut -d, -f "$(($1 * gpus_each + 1))-$((($1 + 1) * gpus_each))"
}

run() { # the task; with -K it tells of its failure, and ends when another has failed
  [ -n "$kill_on_bad" ] || exec "$@"
  "$@" &
  task=$!
  trap 'kill "$task" 2> /dev/null' TERM
  await "$task"
  [ "$code" = 0 ] || kill -USR2 $$
  exit "$code"
}

await() { # the end of $1; its exit code is then in $code. A trapped signal ends a wait before that.
  while :; do
    wait "$1" 2> /dev/null
    code=$?
    [ "$code" -gt 128 ] && kill -0 "$1" 2> /dev/null || break
    stop_all
  done
}

stop_all() { # once, when a task has failed under -K
  [ -n "$failed" ] && [ -z "$stopped" ] || return 0
  stopped=1
  for other in $pids; do kill "$other" 2> /dev/null; done
}

# A signal reaches each process of the job; this one stays to hand on the exit code.
failed='' stopped=''
trap : TERM INT HUP USR1
trap failed=1 USR2
[ "${DURE_SBATCH_SIGNAL-}" != B ] || trap '' USR1
pids='' i=0
while [ "$i" -lt "$here" ]; do
  (
    export SLURM_PROCID=$((first + i)) SLURM_LOCALID="$i" SLURM_NTASKS="$ntasks" SLURM_NPROCS="$ntasks"
    export SLURM_STEP_NUM_TASKS="$ntasks" SLURM_STEP_ID=0
    export RANK="$SLURM_PROCID" LOCAL_RANK="$i" WORLD_SIZE="$ntasks" LOCAL_WORLD_SIZE="$here"
    if [ -n "$gpus_each" ] && [ -n "${CUDA_VISIBLE_DEVICES-}" ]; then
      CUDA_VISIBLE_DEVICES=$(gpus_from "$i")
      export CUDA_VISIBLE_DEVICES
    fi
    pids=''
    [ -n "$label" ] || run "$@"
    exec 4>&1
    code=$({
      {
        "$@" 2>&1 3>&- 4>&-
        echo "$?" >&3
      } | while IFS= read -r line || [ -n "$line" ]; do printf '%s: %s\n' "$SLURM_PROCID" "$line"; done >&4
    } 3>&1)
    exit "$code"
  ) &
  pids="$pids $!"
  i=$((i + 1))
done
worst=0
for pid in $pids; do
  await "$pid"
  # Those that were stopped because another failed do not count.
  if [ "$code" -gt "$worst" ] && { [ -z "$stopped" ] || [ "$code" -ne 143 ]; }; then worst=$code; fi
  stop_all
done
exit "$worst"
