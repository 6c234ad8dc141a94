#!/usr/bin/env bash
#SBATCH --job-name=sam3ray
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
#SBATCH --output=sam3ray-%j.log
#
#   sbatch configs/deploy/slurm.sh CONFIG [--set key=value ...]
#
# Starts one Ray node per SLURM node, and the driver on the first. A job that is preempted or runs out of time is
# requeued and continues where it stopped: `run` is safe to repeat.
#
# VENV is the folder of the virtual environment on a shared file system (default: .venv). In a container, use an image
# built from configs/deploy/Dockerfile, and set VENV=/opt/sam3ray.
#
# Weights: a folder on the shared file system, such as model.checkpoint: /shared/weights/sam3 (fill it once with
# `hf download facebook/sam3 --local-dir ...`), an s3:// address, or the hub with HF_TOKEN exported before sbatch.
set -euo pipefail

config="${1:?usage: sbatch slurm.sh CONFIG [--set key=value ...]}"
shift
venv="${VENV:-.venv}"
# shellcheck source=/dev/null
source "$venv/bin/activate"

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head="${hosts[0]}"
# Jobs that share a node need different ports, outside 10002-19999, which Ray uses for its workers.
port="${RAY_PORT:-$((20000 + SLURM_JOB_ID % 5000 * 2))}"
gpus="${SLURM_GPUS_ON_NODE:-0}"
cpus="${SLURM_CPUS_PER_TASK:-1}"
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN="${RAY_AUTH_TOKEN:-$(python -c 'import secrets; print(secrets.token_hex(32))')}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$cpus}"

head_address="$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{print $1}')"
export RAY_ADDRESS="$head_address:$port"

srun --nodes=1 --ntasks=1 -w "$head" \
    ray start --head --block --disable-usage-stats --node-ip-address="$head_address" --port="$port" \
    --ray-client-server-port="$((port + 1))" --num-cpus="$cpus" --num-gpus="$gpus" &
head_task=$!

for host in "${hosts[@]:1}"; do
    srun --nodes=1 --ntasks=1 -w "$host" \
        ray start --block --disable-usage-stats --address="$RAY_ADDRESS" --num-cpus="$cpus" --num-gpus="$gpus" &
done

# This script runs on the first node, the head's. `ray status` answers once the head is up.
until ray status --address "$RAY_ADDRESS" >/dev/null 2>&1; do
    if ! kill -0 "$head_task" 2>/dev/null; then
        echo "slurm.sh: the head of the Ray cluster did not start on $head; \`ray start\` says why above" >&2
        exit 3
    fi
    sleep 2
done

# Not through srun, which kills its tasks on SIGTERM.
python -m sam3ray run "$config" --set cluster.address=auto "$@" &
driver=$!
# SLURM's warning goes to this script; the driver shuts down cleanly on SIGTERM.
trap 'kill -TERM "$driver"' TERM
code=0
wait "$driver" || code=$?
# A signal ends `wait` early, while the driver is still shutting down.
if kill -0 "$driver" 2>/dev/null; then
    code=0
    wait "$driver" || code=$?
fi
if [[ $code -eq 130 ]]; then
    scontrol requeue "$SLURM_JOB_ID" || true
fi
exit "$code"
