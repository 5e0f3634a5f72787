"""What exports need beside the package itself: each kind is an extra, installed only where it is wanted."""

from importlib.util import find_spec

from consilia.errors import UserError

_MODULES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "dicom": ("highdicom",), "mlflow": ("mlflow",)}


def check_extra(name: str) -> None:
    """Check that an extra of the package is installed.

    Raises:
        UserError: It is not; says how to install it.
    """
    missing = [module for module in _MODULES[name] if find_spec(module) is None]
    if missing:
        raise UserError(
            f"An export to {name} needs {', '.join(missing)}, which this Python does not have. Install it: "
            f"pip install 'consilia[{name}]'"
        )
