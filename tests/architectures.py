"""Small models of many architectures, of transformers' own classes: speech, text, vision, mixtures, state spaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

BERT: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
    "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
TEXT = {**BERT, "num_key_value_heads": 1, "head_dim": 8}
FOUR = {**TEXT, "num_hidden_layers": 4}
SPEECH = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
    "conv_dim": [8, 8], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
TWO_SIDES = {
    "d_model": 16, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "vocab_size": 64, "max_position_embeddings": 16, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
WHISPER = {**TWO_SIDES, "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 16}
TOWER = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "num_mel_bins": 8,
         "max_source_positions": 20}  # fmt: skip
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
          "patch_size": 4}  # fmt: skip
QWEN_VISION = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 16,
               "fullatt_block_indexes": [1]}  # fmt: skip
MROPE = {**TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4}}
T5 = {"d_model": 16, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 2, "d_kv": 8, "d_ff": 24, "vocab_size": 64,
      "decoder_start_token_id": 0}  # fmt: skip
EXPERTS = {**TEXT, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8,
           "shared_expert_intermediate_size": 8}  # fmt: skip
LOCAL = {**TEXT, "num_local_experts": 2, "num_experts_per_tok": 1}
DEEPSEEK = {
    **TEXT, "n_routed_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 8, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
    "v_head_dim": 8, "n_group": 1, "topk_group": 1, "num_key_value_heads": 2,
}  # fmt: skip
MAMBA = {"vocab_size": 64, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 3}
HYBRID = {**FOUR, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1}

# model type (a second class after a colon) -> class, settings
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "whisper": ("WhisperForConditionalGeneration", WHISPER),
    "whisper:classes": ("WhisperForAudioClassification", WHISPER),
    "wav2vec2": ("Wav2Vec2ForCTC", SPEECH),
    "hubert": ("HubertForCTC", SPEECH),
    "wavlm": ("WavLMForCTC", {**SPEECH, "num_buckets": 8}),
    "data2vec-audio": ("Data2VecAudioForCTC", SPEECH),
    "unispeech-sat": ("UniSpeechSatForCTC", SPEECH),
    "wav2vec2-conformer": ("Wav2Vec2ConformerForCTC", SPEECH),
    "wav2vec2-bert": (
        "Wav2Vec2BertForCTC",
        {**BERT, "feature_projection_input_dim": 8, "output_hidden_size": 16, "add_adapter": True},
    ),
    "sew": ("SEWForCTC", {**SPEECH, "squeeze_factor": 2}),
    "speech_to_text": (
        "Speech2TextForConditionalGeneration",
        {**TWO_SIDES, "max_source_positions": 32, "max_target_positions": 16, "input_feat_per_channel": 8,
         "conv_channels": 8},
    ),
    "moonshine": (
        "MoonshineForConditionalGeneration",
        {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "encoder_num_hidden_layers": 3,
         "decoder_num_hidden_layers": 2, "encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2,
         "encoder_num_key_value_heads": 2, "decoder_num_key_value_heads": 2},
    ),
    "parakeet_ctc": (
        "ParakeetForCTC",
        {"vocab_size": 32, "pad_token_id": 31,
         "encoder_config": {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
                            "intermediate_size": 24, "num_mel_bins": 16, "subsampling_conv_channels": 8}},
    ),
    "seamless_m4t_v2": (
        "SeamlessM4Tv2ForSpeechToText",
        {**TWO_SIDES, "hidden_size": 16, "encoder_layers": 3, "speech_encoder_layers": 3,
         "speech_encoder_attention_heads": 2, "speech_encoder_intermediate_size": 24,
         "feature_projection_input_dim": 8},
    ),
    "speecht5": (
        "SpeechT5ForSpeechToText",
        {**TWO_SIDES, **{k: v for k, v in SPEECH.items() if "conv" in k}, "hidden_size": 16,
         "num_feat_extract_layers": 2, "max_speech_positions": 16, "max_text_positions": 16},
    ),
    "qwen2_audio": (
        "Qwen2AudioForConditionalGeneration",
        {"audio_config": {"model_type": "qwen2_audio_encoder", **TOWER}, "text_config": {"model_type": "qwen2", **TEXT},
         "audio_token_index": 3},
    ),
    "qwen2_5_omni_thinker": (
        "Qwen2_5OmniThinkerForConditionalGeneration",
        {"text_config": MROPE, "audio_config": {**TOWER, "output_dim": 16, "n_window": 4},
         "vision_config": QWEN_VISION},
    ),
    "voxtral": (
        "VoxtralForConditionalGeneration",
        {"audio_config": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
                          "num_mel_bins": 8, "max_source_positions": 20},
         "text_config": {"model_type": "llama", **TEXT}},
    ),
    "qwen3_asr": (
        "Qwen3ASRForConditionalGeneration",
        {"audio_config": {**TOWER, "downsample_hidden_size": 4, "output_dim": 16},
         "text_config": {"model_type": "qwen3", **TEXT}},
    ),
    "granite_speech": (
        "GraniteSpeechForConditionalGeneration",
        {"text_config": {"model_type": "granite", **TEXT}, "downsample_rate": 1, "window_size": 2,
         "has_lora_adapter": False,
         "encoder_config": {"hidden_dim": 16, "num_layers": 3, "num_heads": 2, "dim_head": 8, "input_dim": 8,
                            "output_dim": 8, "context_size": 4, "max_pos_emb": 4, "conv_kernel_size": 3},
         "projector_config": {"model_type": "blip_2_qformer", "hidden_size": 16, "num_hidden_layers": 2,
                              "num_attention_heads": 2, "intermediate_size": 24, "encoder_hidden_size": 16}},
    ),
    "t5": ("T5ForConditionalGeneration", T5),
    "mt5": ("MT5ForConditionalGeneration", T5),
    "bart": ("BartForConditionalGeneration", TWO_SIDES),
    "mbart": ("MBartForConditionalGeneration", TWO_SIDES),
    "m2m_100": ("M2M100ForConditionalGeneration", TWO_SIDES),
    "marian": ("MarianMTModel", {**TWO_SIDES, "decoder_vocab_size": 64}),
    "bert": ("BertForMaskedLM", BERT),
    "roberta": ("RobertaForSequenceClassification", BERT),
    "distilbert": ("DistilBertForMaskedLM", {"vocab_size": 64, "dim": 16, "n_layers": 3, "n_heads": 2,
                                             "hidden_dim": 24, "max_position_embeddings": 32}),
    "deberta-v2": ("DebertaV2ForMaskedLM", BERT),
    "modernbert": ("ModernBertForMaskedLM", BERT),
    "electra": ("ElectraForPreTraining", {**BERT, "embedding_size": 16}),
    "convbert": ("ConvBertForMaskedLM", {**BERT, "embedding_size": 16, "num_attention_heads": 4}),
    "llama": ("LlamaForCausalLM", TEXT),
    "mistral": ("MistralForCausalLM", TEXT),
    "qwen2": ("Qwen2ForCausalLM", TEXT),
    "qwen3": ("Qwen3ForCausalLM", {**TEXT, "tie_word_embeddings": True}),
    "gemma": ("GemmaForCausalLM", TEXT),
    "gemma2": ("Gemma2ForCausalLM", TEXT),
    "gemma3_text": ("Gemma3ForCausalLM", {**TEXT, "num_hidden_layers": 6}),
    "phi": ("PhiForCausalLM", BERT),
    "phi3": ("Phi3ForCausalLM", TEXT),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 16, "n_layer": 3, "n_head": 2, "vocab_size": 64, "n_positions": 16}),
    "gpt_neox": ("GPTNeoXForCausalLM", BERT),
    "gpt_neo": ("GPTNeoForCausalLM", {"vocab_size": 64, "hidden_size": 16, "num_layers": 4, "num_heads": 2,
                                      "attention_types": [[["global", "local"], 2]], "max_position_embeddings": 16}),
    "gptj": ("GPTJForCausalLM", {"vocab_size": 64, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 16,
                                 "rotary_dim": 4}),
    "falcon": ("FalconForCausalLM", {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 3,
                                     "num_attention_heads": 2}),
    "bloom": ("BloomForCausalLM", {"vocab_size": 64, "hidden_size": 16, "n_layer": 3, "n_head": 2}),
    "opt": ("OPTForCausalLM", {**BERT, "ffn_dim": 24, "word_embed_proj_dim": 16}),
    "mpt": ("MptForCausalLM", {"vocab_size": 64, "d_model": 16, "n_layers": 3, "n_heads": 2, "max_seq_len": 16}),
    "starcoder2": ("Starcoder2ForCausalLM", TEXT),
    "stablelm": ("StableLmForCausalLM", BERT),
    "olmo2": ("Olmo2ForCausalLM", TEXT),
    "cohere": ("CohereForCausalLM", TEXT),
    "cohere2": ("Cohere2ForCausalLM", FOUR),
    "glm": ("GlmForCausalLM", TEXT),
    "glm4": ("Glm4ForCausalLM", TEXT),
    "granite": ("GraniteForCausalLM", TEXT),
    "smollm3": ("SmolLM3ForCausalLM", FOUR),
    "llama4_text": ("Llama4ForCausalLM", {**FOUR, "num_local_experts": 2, "intermediate_size_mlp": 24}),
    "mixtral": ("MixtralForCausalLM", LOCAL),
    "qwen2_moe": ("Qwen2MoeForCausalLM", {**EXPERTS, "mlp_only_layers": [0]}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", EXPERTS),
    "deepseek_v2": ("DeepseekV2ForCausalLM", {**DEEPSEEK, "q_lora_rank": None}),
    "deepseek_v3": ("DeepseekV3ForCausalLM", DEEPSEEK),
    "olmoe": ("OlmoeForCausalLM", EXPERTS),
    "granitemoe": ("GraniteMoeForCausalLM", LOCAL),
    "phimoe": ("PhimoeForCausalLM", LOCAL),
    "gpt_oss": ("GptOssForCausalLM", LOCAL),
    "mamba": ("MambaForCausalLM", MAMBA),
    "mamba2": ("Mamba2ForCausalLM", {**MAMBA, "num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 8}),
    "falcon_mamba": ("FalconMambaForCausalLM", MAMBA),
    "rwkv": ("RwkvForCausalLM", {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 3,
                                 "attention_hidden_size": 16, "intermediate_size": 24}),
    "lfm2": ("Lfm2ForCausalLM", {**FOUR, "layer_types": ["conv", "full_attention"] * 2}),
    "jamba": (
        "JambaForCausalLM",
        {**FOUR, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
         "num_experts": 2, "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    ),
    "bamba": ("BambaForCausalLM", {**HYBRID, "attn_layer_indices": [1, 3]}),
    "recurrent_gemma": (
        "RecurrentGemmaForCausalLM", {**TEXT, "lru_width": 16, "block_types": ["recurrent", "recurrent", "attention"]}
    ),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        {**EXPERTS, "num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
         "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    ),
    "granitemoehybrid": (
        "GraniteMoeHybridForCausalLM",
        {**HYBRID, "layer_types": ["mamba", "attention"] * 2, "num_local_experts": 2, "num_experts_per_tok": 1,
         "shared_intermediate_size": 8},
    ),
    "nemotron_h": (  # only the list of its layers' kinds counts them
        "NemotronHForCausalLM",
        {**TEXT, "num_hidden_layers": None, "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
         "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 4, "n_groups": 1, "chunk_size": 8,
         "n_routed_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8,
         "moe_shared_expert_intermediate_size": 8},
    ),
    "ernie4_5_moe": ("Ernie4_5_MoeForCausalLM", {**TEXT, "moe_num_experts": 2, "moe_k": 1, "moe_num_shared_experts": 1,
                                                 "moe_intermediate_size": 8}),
    "gemma4_text": (
        "Gemma4ForCausalLM",
        {**TEXT, "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 64, "global_head_dim": 16,
         "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
    ),
    "xlstm": ("xLSTMForCausalLM", {**MAMBA, "num_heads": 2}),  # counts its blocks under two names
    # what the file calls a layer's tensors has no part in common with the module tree's names, but the number
    "nomic_bert": ("NomicBertForMaskedLM", {**BERT, "head_dim": 8}),
    "step3p7": (
        "Step3p7ForConditionalGeneration",
        {"vision_config": {"model_type": "step3p5_vision", **VISION},
         "text_config": {"model_type": "step3p5", **TEXT, "num_hidden_layers": 3, "n_routed_experts": 2,
                         "num_experts_per_tok": 1, "moe_intermediate_size": 8, "num_sliding_attention_heads": 2}},
    ),
    "mistral_large4": (
        "MistralLarge4ForConditionalGeneration",
        {"vision_config": {"model_type": "pixtral", **VISION, "head_dim": 8},
         "text_config": {"model_type": "mistral_large4_text", **DEEPSEEK, "index_head_dim": 8, "index_n_heads": 2,
                         "qk_head_dim": 8}},
    ),
    "cohere_asr": (
        "CohereAsrForConditionalGeneration",
        {**TEXT, "encoder_config": {"model_type": "parakeet_encoder", "hidden_size": 16, "num_hidden_layers": 2,
                                    "num_attention_heads": 2, "intermediate_size": 24, "num_mel_bins": 16,
                                    "subsampling_conv_channels": 8}},
    ),
    # a layer's queries lie outside its layer, under a number that is not its own
    "inkling2_text": (
        "Inkling2ForCausalLM",
        {**EXPERTS, "unpadded_vocab_size": 64, "swa_num_attention_heads": 2, "swa_num_key_value_heads": 1,
         "swa_head_dim": 8, "n_routed_experts": 2},
    ),
    "vit": ("ViTForImageClassification", VISION),
    "clip": ("CLIPModel", {"text_config": BERT, "vision_config": {**VISION, "num_hidden_layers": 3},
                           "projection_dim": 8}),
    "siglip": ("SiglipModel", {"text_config": BERT, "vision_config": {**VISION, "num_hidden_layers": 3}}),
    "dinov2": ("Dinov2Model", VISION),
    "swin": ("SwinForImageClassification", {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [2, 2],
                                            "num_heads": [1, 2], "window_size": 2}),
    "convnext": ("ConvNextForImageClassification", {"hidden_sizes": [8, 16], "depths": [2, 2], "num_stages": 2}),
    "llava": (
        "LlavaForConditionalGeneration",
        {"vision_config": {"model_type": "clip_vision_model", **VISION},
         "text_config": {"model_type": "llama", **TEXT}, "image_token_index": 3},
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VLForConditionalGeneration",
        {"text_config": MROPE, "vision_config": QWEN_VISION, "image_token_id": 3, "video_token_id": 4},
    ),
    "mllama": (  # two stacks of one tower, here of as many layers
        "MllamaForConditionalGeneration",
        {"vision_config": {**VISION, "num_global_layers": 2, "attention_heads": 2, "intermediate_layers_indices": [0],
                           "vision_output_dim": 32, "supported_aspect_ratios": [[1, 1]], "max_num_tiles": 1},
         "text_config": {**TEXT, "cross_attention_layers": [1]}},
    ),
    "gemma3": ("Gemma3ForConditionalGeneration", {"text_config": TEXT, "vision_config": VISION,
                                                  "mm_tokens_per_image": 1}),
}  # fmt: skip


def class_of(kind: str) -> Any:
    import transformers

    return getattr(transformers, ARCHITECTURES[kind][0])


def make_pair(kind: str, place: Path) -> tuple[Path, Path]:
    """A model and another one of its architecture, saved as transformers saves them."""
    import transformers

    torch.manual_seed(0)
    settings = transformers.AutoConfig.for_model(kind.partition(":")[0], **ARCHITECTURES[kind][1])
    model = class_of(kind)(settings)
    model.save_pretrained(place / "a")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(place / "b")
    # as FSDP and zero_to_fp32 write it: the module tree's names, experts in one tensor
    (place / "tree").mkdir()
    (place / "tree" / "config.json").write_bytes((place / "b" / "config.json").read_bytes())
    named = {id(t): n for n, t in reversed(model.state_dict(keep_vars=True).items())}
    tensors = {n: t.detach().clone() for n, t in model.state_dict(keep_vars=True).items() if named[id(t)] == n}
    save_file(tensors, place / "tree" / "model.safetensors", metadata={"format": "pt"})
    return place / "a", place / "b"


def loading_faults(kind: str, place: Path) -> dict[str, list[str]]:
    """What transformers misses, or finds too much, when it loads a directory."""
    _, told = class_of(kind).from_pretrained(place, output_loading_info=True)
    faults = {key: sorted(map(str, told[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    return {key: names for key, names in faults.items() if names}
