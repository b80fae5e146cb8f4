"""CTranslate2's directory, which faster-whisper loads: the weights in one file, vocabulary and settings beside it.

The form of the file is known from CTranslate2's Python package (ctranslate2.specs, its converters), 4.8.5: version 6 of
the file, revision 3 of its Whisper.
"""
