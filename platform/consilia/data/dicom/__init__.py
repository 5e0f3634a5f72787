"""DICOM files: their headers, and their pixels as grey or colour."""
