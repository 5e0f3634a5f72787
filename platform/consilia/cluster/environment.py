"""What every process of a study on Ray must be given: the package, and how Ray Train behaves."""

from pathlib import Path

# Slots depend on the first, and the last makes Ray Train's runs visible in the dashboard. A health check costs each
# slot a few milliseconds of CPU, so one a second is a fair price for noticing a dead worker that soon.
RAY_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
}
PACKAGE = Path(__file__).parent.parent  # shipped to clusters as a py_module, so that they need not install it
