"""From recordings to hypotheses: systems, test sets, decoding, runtimes."""
