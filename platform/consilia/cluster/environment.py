"""What every process of a study on Ray must be given: the package, and how Ray Train behaves."""

from pathlib import Path

# Slots depend on the first; the others make Ray Train quicker to notice a dead worker and visible in the dashboard.
RAY_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
}
PACKAGE = Path(__file__).parent.parent  # shipped to clusters as a py_module, so that they need not install it
