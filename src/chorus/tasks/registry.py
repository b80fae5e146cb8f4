"""The tasks that there are, by name; others' come from the entry-point group `chorus.tasks`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from chorus.errors import UsageError, nearest
from chorus.registry import Registry
from chorus.tasks.protocol import Task


def _load() -> None:
    from chorus.tasks.asr import ASR
    from chorus.tasks.custom import CUSTOM
    from chorus.tasks.emotion import EMOTION
    from chorus.tasks.intent import INTENT
    from chorus.tasks.kws import KWS
    from chorus.tasks.langid import LANGID
    from chorus.tasks.speaker_id import SPEAKER_ID
    from chorus.tasks.speaker_ver import SPEAKER_VER
    from chorus.tasks.speech_qa import SPEECH_QA
    from chorus.tasks.st import ST
    from chorus.tasks.vocalsound import VOCALSOUND

    for task in (
        ASR, ST, EMOTION, INTENT, KWS, LANGID, SPEAKER_VER, SPEAKER_ID, VOCALSOUND, SPEECH_QA, CUSTOM,
    ):  # fmt: skip
        TASKS.add(task.name, task)


TASKS: Registry[Task] = Registry("task", "chorus.tasks", _load)


def parse_task(text: str) -> str:
    """A task's name from any of its spellings; `UsageError` names the nearest.

    >>> parse_task("transcribe"), parse_task("st")
    ('asr', 'st')
    """
    spelled = {spelling: task.name for task in TASKS for spelling in (task.name, *task.spellings)}
    given = text.strip().lower()
    if given not in spelled:
        raise UsageError(f'unknown task "{text}"{nearest(given, spelled)}')
    return spelled[given]


def task_or(text: str, otherwise: str = "") -> str:
    """A task's name from any of its spellings; of what is none, `otherwise`.

    >>> task_or("transcribe"), task_or("radio"), task_or("", "kws")
    ('asr', '', 'kws')
    """
    try:
        return parse_task(text)
    except UsageError:
        return otherwise


def _parsed(value: object) -> object:
    """For pydantic, which takes a `ValueError` for the user's fault."""
    try:
        return parse_task(value) if isinstance(value, str) else value
    except UsageError as error:
        raise ValueError(error.message) from None


TaskName = Annotated[str, BeforeValidator(_parsed)]  # of settings: any spelling is taken, the name is kept
