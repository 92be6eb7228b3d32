#!/bin/bash
#SBATCH --job-name=answers
#SBATCH --array=0-7
#SBATCH --cpus-per-task=1
#SBATCH --time=00:30:00
#SBATCH --requeue
# Eight jobs, a part of the questions each. One that is ended and started again goes on where it was.
set -euo pipefail
python job.py "$SLURM_ARRAY_TASK_ID" "$SLURM_ARRAY_TASK_COUNT"
