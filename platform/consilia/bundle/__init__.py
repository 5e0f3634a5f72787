"""The artefact: document, arrays, golden outputs, card; reading and writing."""
