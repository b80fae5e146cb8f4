"""Speech language models of the Qwen family: their classes, and how a question about audio is written."""

from __future__ import annotations

SPEECH_LLMS = {  # model_type -> class
    "qwen2_audio": "Qwen2AudioForConditionalGeneration",
    "qwen2_5_omni": "Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen2_5_omni_thinker": "Qwen2_5OmniThinkerForConditionalGeneration",
}
SYSTEM_PROMPT = "You are a helpful assistant."
AUDIO, BEGIN, END = "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"


def audio_question(question: str, columns: int) -> str:
    """ChatML up to the answer; the audio's place is as long as the tower's output of so many columns of features."""
    frames = ((columns - 1) // 2 + 1 - 2) // 2 + 1
    return (
        f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n{BEGIN}{AUDIO * frames}{END}"
        f"{question}<|im_end|>\n<|im_start|>assistant\n"
    )
