"""The `slurm` executor: attempts as jobs of an existing Slurm cluster."""
