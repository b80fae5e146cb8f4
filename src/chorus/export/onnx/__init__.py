"""ONNX graphs of a Whisper as sherpa-onnx loads them: encoder and decoder with their weights, and a table of tokens.

What they must be is known from sherpa-onnx's published source (634265c, August 2026): scripts/whisper/export-onnx.py
and export-onnx-with-attention.py for names, metadata and table, sherpa-onnx/csrc/offline-whisper-*.cc for what reads
them.
The form of the files is known from ONNX's published onnx.proto: IR version 8, operators of set 17.
"""
