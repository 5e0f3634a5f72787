"""Ensembles, predictions and studies in the formats of other programs: ONNX, DICOM, MLflow."""
