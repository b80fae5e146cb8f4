"""What PEFT's kinds of adapters are, and which keys of a LoRA's config change what its tensors mean.

LoRA and AdaLoRA are base plus low rank. Of the others the reason is told why they are not applied here.
"""

from __future__ import annotations

from chorus.errors import CheckpointError, nearest
from chorus.plain import JsonObject

KINDS = ("LORA", "ADALORA")
MERGE = "merge it into its base with PEFT's merge_and_unload, save that, and name the saved model"
# What PEFT itself merges, so that its way out is a true one.
MERGED_BY_PEFT = (
    "ADAMSS", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA", "GRALORA", "HIRA", "HRA", "IA3",
    "LN_TUNING", "LOHA", "LOKR", "MISS", "OFT", "OSF", "PEANUT", "PSOFT", "PVERA", "RANDLORA", "ROAD", "SHIRA",
    "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA", "VERA", "WAVEFT",
)  # fmt: skip
# What no weights of the base can hold: PEFT does not merge these either.
IN_NO_WEIGHTS = {
    "PROMPT_TUNING": "puts learnt vectors before the input",
    "MULTITASK_PROMPT_TUNING": "puts learnt vectors before the input",
    "P_TUNING": "puts learnt vectors before the input",
    "CPT": "puts learnt vectors before the input",
    "PREFIX_TUNING": "puts learnt keys and values before those of the input",
    "CARTRIDGE": "puts learnt keys and values before those of the input",
    "ADAPTION_PROMPT": "puts learnt vectors into the attention",
    "XLORA": "mixes several adapters anew for every input",
    "POLY": "mixes several adapters by the task of the input",
    "LILY": "mixes several adapters anew for every input",
    "SHADOW": "runs a small network beside the base",
}
HARMLESS = frozenset({
    # what it was made for and with
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    # where it is and what is done in training: the file's names and values tell what came of it
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "bias",
    "eva_config", "corda_config", "lora_ga_config", "loftq_config", "velora_config", "monteclora_config",
    "ensure_weight_tying", "runtime_config", "qalora_group_size", "megatron_core",
    # AdaLoRA's schedule
    "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step",
    # of PEFT's first versions
    "merge_weights",
})  # fmt: skip
READ = frozenset({
    "r", "init_r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias",
    "fan_in_fan_out", "init_lora_weights", "modules_to_save",
})  # fmt: skip
# key -> what a value in it means
CHANGES = {
    "alora_invocation_tokens": "it acts only on the tokens after these (aLoRA), which no weights can do",
    "arrow_config": "it chooses among several adapters for every token (Arrow), which no weights can do",
    "kasa_config": "it was trained on a base that KaSA had cut down, which is not the base that is named here",
    "use_qalora": "its factors act on pooled inputs of a quantised base (QALoRA)",
    "use_bdlora": "its factors are blocks on a diagonal (BD-LoRA), stored in a form of their own",
    "layer_replication": "its model has layers that the base has not",
    "target_parameters": "its factors are for parameters that hold several experts each",
    "trainable_token_indices": "it holds rows of the embedding of their own",
    "megatron_config": "its factors are for Megatron's parallel layers",
}
BY_PEFT = ("kasa_config", "use_bdlora", "layer_replication", "target_parameters", "trainable_token_indices")
PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica")  # leave the base as it is
COMPUTED_STARTS = ("pissa", "olora")  # take off the base what the base alone determines, and is computed again
CHANGES_BASE = ("pissa_niter", "lora_ga", "corda", "loftq")  # take off what only the training knew


def kind_of(config: JsonObject, where: str) -> str:
    """ "LORA" or "ADALORA"; `CheckpointError` says of every other kind why it is not applied."""
    kind = str(config.get("peft_type") or "").upper().removeprefix("PEFTTYPE.")
    if kind in KINDS:
        return kind
    if kind in IN_NO_WEIGHTS:
        raise CheckpointError(
            f"{where}: peft_type: {kind} {IN_NO_WEIGHTS[kind]}: no weights can hold that, and PEFT cannot merge it",
            "leave it out; use it with PEFT, on the base or on a merged model",
        )
    if kind in MERGED_BY_PEFT:
        raise CheckpointError(
            f"{where}: peft_type: {kind}; only LoRA and AdaLoRA adapters, base plus low rank, are applied here", MERGE
        )
    raise CheckpointError(
        f"{where}: peft_type: {kind[:80] or 'missing'}{nearest(kind, KINDS) if kind else ''}; what such an adapter "
        "means is not known here",
        "merge it into its base with the program that made it, and name the merged model",
    )


def refuse_changes(config: JsonObject, where: str) -> None:
    """Refuse keys that change what the tensors mean, and those of which nobody here knows whether they do."""
    for key, why in CHANGES.items():
        # an empty list or False is the default, said aloud
        if config.get(key):
            remedy = MERGE if key in BY_PEFT else "leave it out, or train a LoRA without this"
            raise CheckpointError(f"{where}: {key} is set: {why}", remedy)
    for key, value in config.items():
        if key not in HARMLESS and key not in READ and key not in CHANGES and value:
            raise CheckpointError(
                f"{where}: {key[:80]}: not known here (PEFT up to 0.21 is); it may change what the tensors mean",
                "merge it into its base with the PEFT that wrote it; or remove the key where it changes nothing",
            )


def start_of(config: JsonObject, where: str) -> str:
    """ "pissa" or "olora" where training began by taking factors off the base, else ""."""
    init = config.get("init_lora_weights")
    if init is None or isinstance(init, bool):
        return ""
    start = str(init).lower()
    if start in COMPUTED_STARTS:
        return start
    if start in PLAIN_STARTS:
        return ""
    # the beginning, because of `pissa_niter_16`: its singular vectors come from a random start
    if start.startswith(CHANGES_BASE):
        raise CheckpointError(
            f"{where}: init_lora_weights: {start[:80]!r} changes the base's weights before training; against the "
            "original base these factors are not its delta",
            "save it with path_initial_model_for_weight_conversion (see PEFT on PiSSA), which makes a plain LoRA",
        )
    raise CheckpointError(
        f"{where}: init_lora_weights: {str(init)[:80]!r}; PEFT knows no such start"
        f"{nearest(start, (*PLAIN_STARTS, *COMPUTED_STARTS))}",
        "write what the adapter was trained with",
    )
