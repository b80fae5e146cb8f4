"""Bytes and directories: where models are found, how their tensors are read, how results are written."""
