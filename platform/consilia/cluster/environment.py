"""What every process of a study on Ray must be given: the package, and how Ray Train behaves."""

from pathlib import Path

# Worker groups depend on the first. A health check costs each worker a few milliseconds of CPU, so one a second is a
# fair price for noticing a dead worker that soon. Whether a worker hangs is decided by cluster.hang_seconds alone: one
# that measures a large step answers no health check for minutes.
RAY_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(7 * 24 * 3600),
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
PACKAGE = Path(__file__).parent.parent  # shipped to clusters as a py_module, so that they need not install it
