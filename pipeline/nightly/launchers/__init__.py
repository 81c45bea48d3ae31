"""Start the cells of a night: on this machine, through Slurm, or through Kubernetes."""
