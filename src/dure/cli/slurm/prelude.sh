# Runs a batch script as Slurm would: SLURM_* from Dure's and torchrun's variables, srun on PATH, copies of the log.
# Words: the text of srun, the number of the script's parts, the parts, the script's own words.
mask=$(umask)
umask 077
dir=$(mktemp -d "${TMPDIR:-/tmp}/dure-sbatch.XXXXXX") || exit 126
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/bin" || exit 126
printf '%s' "$1" > "$dir/bin/srun" || exit 126
num=$2
shift 2
while [ "$num" -gt 0 ]; do
  printf '%s' "$1" || exit 126
  shift
  num=$((num - 1))
done > "$dir/slurm_script"
chmod 700 "$dir/bin/srun" "$dir/slurm_script"
umask "$mask"

export SLURM_JOB_ID="$DURE_JOB_ID" SLURM_JOBID="$DURE_JOB_ID"
export SLURM_NNODES=$((${WORLD_SIZE:-1} / ${LOCAL_WORLD_SIZE:-1}))
export SLURM_JOB_NUM_NODES="$SLURM_NNODES" SLURM_NODEID="${NODE_RANK:-0}" SLURM_PROCID="${NODE_RANK:-0}" SLURM_LOCALID=0
export SLURM_RESTART_COUNT=$((${DURE_ATTEMPT:-1} - 1))
SLURMD_NODENAME=$(uname -n)
export SLURMD_NODENAME SLURM_TASK_PID=$$ SLURM_JOB_ACCOUNT="${DURE_PROJECT-}" SLURM_CLUSTER_NAME=dure
SLURM_ARRAY_JOB_ID=$SLURM_JOB_ID
if [ -n "${DURE_ARRAY_INDEX-}" ]; then
  # A task of an array is called ARRAY_INDEX.
  export SLURM_ARRAY_TASK_ID="$DURE_ARRAY_INDEX" SLURM_ARRAY_JOB_ID="${SLURM_JOB_ID%"_$DURE_ARRAY_INDEX"}"
fi
if [ "$SLURM_NNODES" = 1 ]; then
  export SLURM_JOB_NODELIST="$SLURMD_NODENAME" SLURM_NODELIST="$SLURMD_NODENAME"
fi
if [ -n "${CUDA_VISIBLE_DEVICES-}" ]; then
  old_ifs=$IFS
  IFS=,
  num=0
  for gpu in $CUDA_VISIBLE_DEVICES; do num=$((num + 1)); done
  IFS=$old_ifs
  export SLURM_GPUS_ON_NODE="$num" SLURM_JOB_GPUS="$CUDA_VISIBLE_DEVICES"
fi

# The signals of a job reach each of its processes: this one stays, to hand on the exit code.
trap : TERM INT HUP USR2
case ${DURE_SBATCH_SIGNAL-} in
  steps) trap '' USR1 ;; # not the script: what it starts takes USR1 if it asks for it
  *) trap : USR1 ;;
esac

copy() { # of what comes through the pipe $1, in the file $2
  if [ -z "${DURE_SBATCH_APPEND-}" ]; then : > "$2" || exit 1; else : >> "$2" || exit 1; fi
  mkfifo "$dir/$1" || exit 126
  (
    trap '' TERM INT HUP USR1 USR2
    exec tee -a -- "$2" < "$dir/$1"
  ) &
}

out='' err=''
if [ "$SLURM_NODEID" = 0 ]; then
  eval "out=${DURE_SBATCH_OUTPUT-} err=${DURE_SBATCH_ERROR-}"
fi
unset DURE_SBATCH_OUTPUT DURE_SBATCH_ERROR
copies=''
if [ -n "$out" ]; then
  copy out "$out"
  copies="$copies $!"
fi
if [ -n "$err" ]; then
  copy err "$err" 1>&2
  copies="$copies $!"
  exec 2> "$dir/err"
fi
if [ -n "$out" ]; then
  exec > "$dir/out"
  [ -n "$err" ] || exec 2>&1
fi

PATH="$dir/bin:$PATH"
export PATH
"$dir/slurm_script" "$@"
code=$?
exec > /dev/null 2>&1
for pid in $copies; do wait "$pid"; done
exit "$code"
