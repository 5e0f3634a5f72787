"""The search: a controller, its sampler and pruners, and the slots that Ray Tune and Ray Train run."""
