#!/usr/bin/env bash
# A sweep over the nodes of a Slurm cluster.
#
# Usage, in the repository: sbatch --nodes=4 common/slurm.sh cpu/run_experiments.sh
#                           sbatch --nodes=4 --gpus-per-node=1 common/slurm.sh gpu/run_gpu_experiments.sh
#
# Settings come from the environment, as for the sweep by itself. The sweep runs on the first node and
# starts each run on all of them by srun. Every node needs the repository, .venv and data at the same
# path; only the first one's results folder is written to.

#SBATCH --job-name=data-parallel
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive

set -euo pipefail

MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
export MASTER_ADDR NNODES="$SLURM_JOB_NUM_NODES" LAUNCHER="srun --ntasks-per-node=1 --cpu-bind=none"
exec "${1:?usage: slurm.sh SCRIPT}"
