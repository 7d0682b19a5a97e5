"""The generated modules of proto/inference.proto, for who wants the raw interface."""
