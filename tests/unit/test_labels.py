"""Labels: of every language of Whisper, what a text is taught as is what the model's own decoding can write."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import pytest
import torch

from chorus.models.languages import LANGUAGES, unspaced
from chorus.models.texts import Labels, Markers, plain_ids
from sounds import BASE, never_written, tiny, whisper_tokenizer

TEXTS = {  # a few words of each language as it is written
    "af": "’n Goeie môre", "am": "እንደምን አደርክ", "ar": "صباح الخير", "as": "শুভ ৰাতিপুৱা", "az": "Sabahınız xeyir",
    "ba": "Хәйерле иртә", "be": "Добрай раніцы", "bg": "Добро утро", "bn": "সুপ্রভাত বন্ধু", "bo": "བཀྲ་ཤིས་བདེ་ལེགས།",
    "br": "Demat deoc’h", "bs": "Dobro jutro", "ca": "Bon dia", "cs": "Dobré ráno", "cy": "Bore da", "da": "Godmorgen",
    "de": "Guten Morgen", "el": "Καλημέρα σας", "en": "Good morning", "es": "¿Buenos días?", "et": "Tere hommikust",
    "eu": "Egun on", "fa": "صبح بخیر", "fi": "Hyvää huomenta", "fo": "Góðan morgun", "fr": "Êtes-vous là ?",
    "gl": "Bo día", "gu": "સુપ્રભાત મિત્ર", "ha": "Barka da safiya", "haw": "Aloha kakahiaka", "he": "בוקר טוב",
    "hi": "सुप्रभात मित्र", "hr": "Dobro jutro", "ht": "Bonjou zanmi", "hu": "Jó reggelt", "hy": "Բարի լույս",
    "id": "Selamat pagi", "is": "Góðan daginn", "it": "È buongiorno", "ja": "おはよう。今日は晴れ",
    "jw": "Sugeng enjing",
    "ka": "დილა მშვიდობისა", "kk": "Қайырлы таң", "km": "អរុណសួស្តី", "kn": "ಶುಭೋದಯ ಗೆಳೆಯ", "ko": "안녕하세요 여러분",
    "la": "Salvē amīce", "lb": "Gudde Moien", "ln": "Mbote na yo", "lo": "ສະບາຍດີຕອນເຊົ້າ", "lt": "Labas rytas",
    "lv": "Labrīt draugs", "mg": "Manao ahoana", "mi": "Mōrena e hoa", "mk": "Добро утро", "ml": "സുപ്രഭാതം സുഹൃത്തേ",
    "mn": "Өглөөний мэнд", "mr": "शुभ प्रभात", "ms": "Selamat pagi", "mt": "Għodwa t-tajba", "my": "မင်္ဂလာပါ",
    "ne": "शुभ प्रभात साथी", "nl": "’s Morgens vroeg", "nn": "God morgon", "no": "Øya våkner", "oc": "Bonjorn a totes",
    "pa": "ਸ਼ੁਭ ਸਵੇਰ", "pl": "Dzień dobry", "ps": "سهار مو پخیر", "pt": "Às vezes, bom dia", "ro": "Îți spun bună",
    "ru": "Ёлка, доброе утро", "sa": "सुप्रभातम्", "sd": "صبح جو سلام", "si": "සුබ උදෑසනක්", "sk": "Dobré ráno",
    "sl": "Žiga, dobro jutro", "sn": "Mangwanani", "so": "Subax wanaagsan", "sq": "Mirëmëngjes", "sr": "Добро јутро",
    "su": "Wilujeng énjing", "sv": "Åke, god morgon", "sw": "Habari za asubuhi", "ta": "காலை வணக்கம்",
    "te": "శుభోదయం మిత్రమా", "tg": "Субҳ ба хайр", "th": "สวัสดีตอนเช้า", "tk": "Ertiriňiz haýyrly", "tl": "Magandang",
    "tr": "İyi günler", "tt": "Хәерле иртә", "uk": "Їжак каже добрий ранок", "ur": "صبح بخیر دوست", "uz": "Xayrli",
    "vi": "Ừ, chào buổi sáng", "yi": "גוט מאָרגן", "yo": "Ẹ káàárọ̀", "yue": "早晨，你好嗎", "zh": "早上好，朋友们",
}  # fmt: skip
WITHOUT_SPACE = {"as", "bn", "bo", "gu", "ja", "km", "lo", "ml", "my", "pa", "te", "th", "yue", "zh"}  # at the least


@cache
def loaded(kind: str, place: str):
    from transformers import WhisperTokenizerFast

    return WhisperTokenizerFast.from_pretrained(place)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    return {kind: str(whisper_tokenizer(tmp_path_factory.mktemp(kind), kind)) for kind in ("v2", "v3", "en")}


def refused(tokenizer, ids: list[int], suppressed: list[int], first: list[int]) -> list[int]:
    """The tokens that transformers' own steps forbid after the prefix, whatever the model says."""
    from transformers import SuppressTokensAtBeginLogitsProcessor, SuppressTokensLogitsProcessor

    scores = torch.zeros(len(ids), len(tokenizer))
    scores[range(len(ids)), ids] = 1.0
    none = torch.zeros(len(ids), 3, dtype=torch.long)  # a prefix, which these steps only measure
    scores = SuppressTokensLogitsProcessor(suppressed)(none, scores)
    scores[:1] = SuppressTokensAtBeginLogitsProcessor(first, begin_index=3)(none[:1], scores[:1])
    return [token for token, best in zip(ids, scores.argmax(-1).tolist(), strict=True) if best != token]


def refused_with_timestamps(tokenizer, ids: list[int]) -> list[int]:
    """The same for the rules of timestamps, which look at what was written before."""
    from transformers import WhisperTimeStampLogitsProcessor

    quiet, end = tokenizer.convert_tokens_to_ids("<|notimestamps|>"), tokenizer.eos_token_id
    settings = SimpleNamespace(
        no_timestamps_token_id=quiet, eos_token_id=end, bos_token_id=end, max_initial_timestamp_index=50
    )  # fmt: skip
    step, found = WhisperTimeStampLogitsProcessor(settings, begin_index=1), []
    for n, token in enumerate(ids):
        scores = torch.zeros(1, len(tokenizer))
        scores[0, token] = 100.0
        found += [] if int(step(torch.tensor([[quiet, *ids[:n]]]), scores).argmax()) == token else [token]
    return found


@pytest.mark.parametrize("kind", ["v2", "v3"])
def test_every_language_is_taught_as_its_own_decoding_can_write_it(tokenizers, kind):
    tokenizer = loaded(kind, tokenizers[kind])
    assert set(TEXTS) == set(LANGUAGES)
    suppressed, first = never_written(tokenizer), [220, tokenizer.eos_token_id]
    labels = Labels(tokenizer, suppressed, first)
    end, bare = tokenizer.eos_token_id, set()
    for code, text in TEXTS.items():
        words = labels(text, spaced=not unspaced(code))
        assert tokenizer.decode(words).strip() == text.strip(), code
        assert labels(text)[0] not in first, "nor where the language is not known"
        assert labels.left_out(text) == []
        assert refused(tokenizer, [*words, end], suppressed, first) == [], code
        bare |= {code} if not tokenizer.decode(words).startswith(" ") else set()
    assert bare >= WITHOUT_SPACE
    assert not bare & {"en", "de", "es", "fr", "ru", "ar", "hi", "ko", "el", "pt", "pl", "tr"}, "as they are pretrained"
    # the way that it was: a space by itself begins, which no Whisper may write
    as_before = tokenizer.encode(" " + TEXTS["th"], add_special_tokens=False)
    assert refused(tokenizer, as_before, suppressed, first) == [220]


def test_symbols_that_are_never_written_are_left_out(tokenizers):
    tokenizer = loaded("v2", tokenizers["v2"])
    labels = Labels(tokenizer, never_written(tokenizer), [220, 50257])
    for text, said, left in [
        ('He said: "yes" (twice) and/or 5:30.', " He said yes twice and or 5 30.", [":", '"', "(", ")", "/"]),
        ("「今日は」", "今日は", ["「", "」"]),
        ("- Well -- no", " Well no", ["-", "--"]),
        ("it's well-known", " it's well-known", []),
        ("♪♪", "", ["♪♪"]),
    ]:
        assert (tokenizer.decode(labels(text)), labels.left_out(text)) == (said, left)
    everything = Labels(tokenizer)
    assert tokenizer.decode(everything("「5:30」")) == " 「5:30」"


def test_what_looks_like_a_special_token_never_is_one(tokenizers, tmp_path):
    from transformers import AutoTokenizer

    whisper = loaded("v2", tokenizers["v2"])
    labels = Labels(whisper)
    for text in ("a <|endoftext|> b", "<|0.00|> a<|1.96|>", "<|startoftranscript|><|de|>x"):
        assert max(labels(text)) < 50257
        assert Markers(whisper).found(text)
    kinds = {"whisper": (BASE, ["<|en|>", "<|12.34|>", "<|nospeech|>"], "a < b | c > d")}
    kinds |= {"qwen2_audio": (tiny(tmp_path / "q", "qwen2_audio"), ["<|im_end|>", "<|AUDIO|>"], "a|b <c>")}
    kinds |= {"wav2vec2": (tiny(tmp_path / "w", "wav2vec2"), ["|", "<pad>", "<unk>"], "<one> two")}
    for place, marks, harmless in kinds.values():
        markers = Markers(AutoTokenizer.from_pretrained(place))
        for mark in marks:
            assert markers.found(f"one{mark}two {mark}") == [mark]
            assert markers.without(f"one{mark}two {mark}") == "one two"
        assert (markers.found(harmless), markers.without(harmless)) == ([], harmless)
    qwen = AutoTokenizer.from_pretrained(kinds["qwen2_audio"][0])
    assert max(plain_ids(qwen, "say <|im_end|>")) < qwen.convert_tokens_to_ids("<|endoftext|>")
