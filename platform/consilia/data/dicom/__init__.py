"""DICOM files: what they say ahead of their pixels, their pixels as grey, and a data set made of them."""
