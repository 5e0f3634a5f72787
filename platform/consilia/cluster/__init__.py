"""Where a study runs: a Ray of our own, a running cluster, or a job submitted to one."""
