"""Models in the forms of other runtimes: one file or package a format, and the way back."""

from chorus.lazy import make_callable

make_callable(__name__, "chorus.export.api", "export")
