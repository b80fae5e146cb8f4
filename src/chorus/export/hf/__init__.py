"""A Hugging Face directory: a model in another type or other shards, and what files of other runtimes lack of one."""
