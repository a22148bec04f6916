"""What attempts run on: processes of this machine, Slurm, Ray. One contract, `dure.ports.executor`."""
