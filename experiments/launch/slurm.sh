#!/bin/sh
# Trains on GPUs under Slurm, one process for each. Not yet run.
#   sbatch --export=ALL,CONFIG=configs/small.py,WORKDIR=/share/runs/run-1 experiments/launch/slurm.sh
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --requeue
#SBATCH --signal=TERM@300
#SBATCH --output=%x-%j.log
# Slurm sends SIGTERM five minutes before the time is up; the run saves, and the job goes back to the queue.
set -u
srun --kill-on-bad-exit=1 sh -c 'CUDA_VISIBLE_DEVICES=$SLURM_LOCALID exec python -m knotjax train --distributed \
  --config="$CONFIG" --workdir="$WORKDIR" --config.mesh.fsdp=8'
status=$?
[ "$status" -ne 143 ] || scontrol requeue "$SLURM_JOB_ID"
exit "$status"
