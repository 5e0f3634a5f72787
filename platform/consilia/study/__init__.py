"""A study from its YAML file to its bundle: the plan, and the steps in order."""
