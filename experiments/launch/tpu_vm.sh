#!/bin/sh
# Trains on all hosts of a Cloud TPU slice. Not yet run.
#   TPU=name ZONE=us-central2-b NFS=10.0.0.2:/share sh experiments/launch/tpu_vm.sh configs/small.py run-1
set -eu
config=$1 run=$2
gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="
  set -eu
  sudo mkdir -p /mnt/share && { mountpoint -q /mnt/share || sudo mount -t nfs '$NFS' /mnt/share; }
  cd /mnt/share/knotjax
  [ -x ~/knot/bin/python ] || { python3.11 -m venv ~/knot && ~/knot/bin/pip install -q -U 'jax[tpu]' -e '.[train,metrics]'; }
  ~/knot/bin/python -m knotjax train --distributed --config='$config' --workdir='/mnt/share/runs/$run' \
    --config.mesh.fsdp=8
"
