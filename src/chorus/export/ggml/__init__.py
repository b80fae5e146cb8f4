"""whisper.cpp's file: header, mel filters, text tokens, tensors; nothing else, and no checksum.

Its layout is known from whisper.cpp's loader (whisper_model_load) and its converters, v1.8.5.
"""
