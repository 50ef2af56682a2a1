#!/usr/bin/env bash
# sbatch deploy/slurm.sh: one model over two nodes of eight GPUs. IMAGE is what `bentoml containerize` made (imported into
# the cluster's container runtime); the path is where the Bento lies inside of it.
#SBATCH --nodes=2
#SBATCH --ntasks=16
#SBATCH --ntasks-per-node=8
#SBATCH --gres=gpu:8
set -euo pipefail
export GUIDED_TRTLLM_EXECUTOR=trtllm
export GUIDED_TRTLLM_TRTLLM__TENSOR_PARALLEL_SIZE=8
export GUIDED_TRTLLM_TRTLLM__PIPELINE_PARALLEL_SIZE=2
export GUIDED_TRTLLM_TRTLLM__GPUS_PER_NODE=8
# The workers import our logits processors, and are not started by bentoml, which knows where the code is.
export PYTHONPATH=/home/bentoml/bento/src
# One process per GPU. trtllm-llmapi-launch runs the service in the first one, and in the others the workers that it uses.
srun --mpi=pmix --container-image="$IMAGE" --container-workdir=/home/bentoml/bento \
  trtllm-llmapi-launch bentoml serve . --host 0.0.0.0 --port 3000
