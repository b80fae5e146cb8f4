"""From recordings to hypotheses: systems, test sets, decoding, runtimes. `chorus.transcribe(model, "a.mp3")` calls
`chorus.transcribe.api.transcribe`."""

from chorus.lazy import make_callable

make_callable(__name__, "chorus.transcribe.api", "transcribe")
