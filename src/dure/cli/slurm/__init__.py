"""Slurm's commands over Dure, for hands and scripts that know them."""
