#!/bin/sh
# Trains on Cloud TPU slices of a GKE cluster made by xpk, with the share mounted in the cluster (xpk storage). Not yet run.
#   CLUSTER=name ZONE=us-central2-b TPU_TYPE=v5p-128 IMAGE=region-docker.pkg.dev/project/repo/knotjax \
#     sh experiments/launch/xpk.sh configs/small.py run-1
set -eu
config=$1 run=$2
xpk workload create --cluster="$CLUSTER" --zone="$ZONE" --workload="$run" --tpu-type="$TPU_TYPE" --num-slices=1 \
  --docker-image="$IMAGE" --max-restarts=20 --command="python -m knotjax train --distributed --config=$config \
  --workdir=/share/runs/$run --config.mesh.fsdp=8"
