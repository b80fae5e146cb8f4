"""Whether an export is the model that it was made of: structure, tensors, front end, logits, transcripts, cost."""

from chorus.lazy import make_callable

make_callable(__name__, "chorus.verify.api", "verify")
