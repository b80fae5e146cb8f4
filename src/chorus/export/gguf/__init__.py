"""llama.cpp's file: what is known of the model and its tokens as keys, then the tensors; written by the `gguf` package.

What llama.cpp wants of each is known from its converter (convert_hf_to_gguf.py) and loader, and from the package's
tables of keys and names.
"""
