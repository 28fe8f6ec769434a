"""Beyond one training at a time: chains on Slurm, and on several GPUs of one machine."""
