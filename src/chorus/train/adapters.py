"""PEFT adapters placed by role: which modules get factors, how they start, how they end as plain LoRA.

PiSSA and OLoRA start from factors of the base and train on what is left of it. They are saved as the difference to
their start, an adapter of the original base of twice the rank: W' = W + s (B A - B0 A0).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from chorus.architectures.layouts import layout_of
from chorus.architectures.roles import Role
from chorus.checkpoints.patterns import PLAIN, Patterns, matcher
from chorus.errors import CheckpointError, MissingExtraError, RecipeError, nearest
from chorus.train.backbones.protocol import Backbone
from chorus.train.config import AdapterSettings, TrainConfig
from chorus.train.processes import is_main

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

    from chorus.models.batches import Batch

ATTENTION_KINDS, LINEAR_KINDS = ("attention",), ("attention", "mlp", "linear")
T = TypeVar("T")
CONVERTED = ("pissa", "olora")
INITIAL = "initial-adapter"


def roles_of(model: PreTrainedModel) -> dict[str, Role]:
    """The role of every parameter, by its name in the loaded model."""
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    return layout_of(config, [name for name, _ in model.named_parameters()]).roles


def freeze_unlearned(model: PreTrainedModel) -> None:
    """Keep what no training may change, such as Whisper's sinusoidal positions.

    Their classes say so when they are built, but transformers 5 forgets it in `from_pretrained` (seen in 5.23).
    """
    roles = roles_of(model)
    for name, parameter in model.named_parameters():
        if not roles[name].learned:
            parameter.requires_grad_(False)


def too_coarse(model: PreTrainedModel, step: float) -> float:
    """Share of what learns that a step of Adam, about the learning rate, leaves as it is: rounded away at once.

    bfloat16 has eight binary digits: a weight of 0.05 has its next neighbours 0.0002 away.
    """
    import torch

    learning = [p.detach() for p in model.parameters() if p.requires_grad]
    lost = sum(int((p + step == p).sum()) for p in learning if p.dtype in (torch.bfloat16, torch.float16))
    return lost / max(1, sum(int(p.numel()) for p in learning))


def freeze(model: PreTrainedModel, names: Sequence[str]) -> int:
    """Stop these components (or kinds, such as convolution) from learning; returns how many values that are."""
    roles = roles_of(model)
    known = {r.component for r in roles.values()} | {r.kind for r in roles.values()}
    for name in names:
        if name not in known:
            raise RecipeError([f'model.freeze: the model has no "{name}"{nearest(name, known)}'])
    frozen = 0
    for name, parameter in model.named_parameters():
        if {roles[name].component, roles[name].kind} & set(names):
            parameter.requires_grad_(False)
            frozen += parameter.numel()
    return frozen


def places(model: PreTrainedModel, settings: AdapterSettings, default_roles: Sequence[str]) -> list[str]:
    """The modules that get factors: linear maps of the asked roles, whole names in the model's order.

    Raises `RecipeError` where a role or a module matches nothing.
    """
    import torch

    roles = roles_of(model)
    present = {r.component for r in roles.values()}
    asked = settings.roles or [r for r in default_roles if r in present]
    for name in asked:
        if name not in present:
            raise RecipeError([f'adapter.roles: the model has no "{name}"{nearest(name, present)}'])
    kinds: tuple[type[torch.nn.Module], ...] = (torch.nn.Linear,)
    if isinstance(settings.modules, list):  # convolutions are left out: Whisper cannot run with PEFT's around them
        kinds = (torch.nn.Linear, torch.nn.Embedding)
    linear = {n for n, m in model.named_modules() if isinstance(m, kinds)}
    candidates = {
        name.removesuffix(".weight"): role
        for name, role in roles.items()
        if name.endswith(".weight") and name.removesuffix(".weight") in linear and role.component in asked
    }
    if "vision" not in asked:  # what joins pictures to the text never learns from recordings
        seen = _vision_tower(roles)
        candidates = {n: r for n, r in candidates.items() if not seen or not n.startswith(seen)}
    if isinstance(settings.modules, list):
        return _named(candidates, settings.modules, asked)
    wanted = ATTENTION_KINDS if settings.modules == "attention" else LINEAR_KINDS
    found = [name for name, role in candidates.items() if role.kind in wanted]
    if not found:
        raise RecipeError([f"adapter.modules: no {settings.modules} module in {', '.join(asked)}"])
    return found


def _vision_tower(roles: dict[str, Role]) -> str:
    """What the names of the vision tower begin with; empty where there is none."""
    inside = [name.split(".") for name, role in roles.items() if role.component == "vision"]
    shared = list(takewhile(lambda parts: len(set(parts)) == 1, zip(*inside, strict=False))) if inside else []
    parts = [names[0] for names in shared]
    return "".join(f"{p}." for p in parts[: -1 if parts and parts[-1] in ("blocks", "layers") else None])


def summary(model: PreTrainedModel, modules: Sequence[str]) -> str:
    """What an adapter is placed on, counted by component and kind: suffixes reach further than one thinks."""
    roles = roles_of(model)
    found = Counter(f"{roles[f'{m}.weight'].component} {roles[f'{m}.weight'].kind}" for m in modules)
    return f"adapter on {len(modules)} modules: " + ", ".join(f"{place} {count}" for place, count in found.items())


def _named(candidates: Iterable[str], endings: Sequence[str], asked: Sequence[str]) -> list[str]:
    names = list(candidates)
    for ending in endings:
        if not any(n == ending or n.endswith(f".{ending}") for n in names):
            leaves = {n.rsplit(".", 1)[-1] for n in names}
            raise RecipeError(
                [f'adapter.modules: "{ending}" matches no module of {", ".join(asked)}{nearest(ending, leaves)}']
            )
    return [n for n in names if any(n == e or n.endswith(f".{e}") for e in endings)]


def check_ranks(model: PreTrainedModel, modules: Sequence[str], settings: AdapterSettings) -> None:
    """Refuse a rank above what a module can have, and patterns that match nothing."""
    wanted = set(modules)
    sizes = {n: tuple(m.weight.shape) for n, m in model.named_modules() if n in wanted}
    problems = []
    try:
        ranks = Patterns(settings.rank_pattern)
        for section in ("rank_pattern", "alpha_pattern"):
            for pattern in getattr(settings, section):
                # with every module: of those that follow one may take too long
                if not list(filter(matcher(pattern), sizes)):
                    problems.append(f'adapter.{section}: "{pattern}" matches no module')
    except ValueError as error:
        raise RecipeError([f"adapter: {error}"], "write modules' names, or their endings") from None
    for name, shape in sizes.items():
        rank = ranks.value(name, settings.rank)
        if rank > min(shape):
            problems.append(f"rank {rank} is above what {name} can have ({shape[0]} x {shape[1]}: {min(shape)})")
    if problems:
        more = [f"... and {len(problems) - 4} more"] if len(problems) > 4 else []
        raise RecipeError(problems[:4] + more, "lower adapter.rank, or give adapter.rank_pattern")


def by_name(patterns: Mapping[str, T], modules: Iterable[str]) -> dict[str, T]:
    """The same values by the modules' names: PEFT's `re` may never come to an end with a pattern (`(.*)*x`).

    `ValueError` where a pattern cannot be matched.
    """
    found: dict[str, T] = {}
    for pattern, value in patterns.items():
        names = [pattern] if PLAIN.fullmatch(pattern) else filter(matcher(pattern), modules)
        found |= {name: value for name in names if name not in found}  # the first that matches is taken
    return found


def attach(
    model: PreTrainedModel,
    config: TrainConfig,
    backbone: Backbone,
    *,
    logs: Path,
    batches: Callable[[], Iterator[Batch]],
    forward: Callable[[PreTrainedModel, Batch], ModelOutput],
    resumed: Path | None,
    note: Callable[[str], None],
) -> PeftModel:
    """The model with a new adapter, or with the one that is trained further.

    `batches()` yields inputs for EVA's start and `forward(model, inputs)` runs them. `resumed` is a checkpoint whose
    adapter will be loaded over this one.
    """
    try:
        import peft
    except ImportError:
        raise MissingExtraError("train", "training adapters") from None
    settings = config.adapter
    if config.model.adapter:
        return _further(model, config.model.adapter)
    assert settings is not None
    modules = places(model, settings, backbone.default_roles)
    check_ranks(model, modules, settings)
    note(summary(model, modules))
    eva = settings.type == "eva"
    if eva and resumed:  # the ranks that EVA gave out stand in the checkpoint
        wrapped = peft.get_peft_model(model, _plain(peft.LoraConfig.from_pretrained(str(resumed))))
    else:
        wrapped = peft.get_peft_model(model, _peft_config(settings, modules, backbone.default_save_modules))
    if eva and not resumed:
        _start_eva(wrapped, batches, forward)
    if settings.type in CONVERTED and is_main() and not (logs / INITIAL).exists():
        _save_start(wrapped, logs / INITIAL)
    return wrapped


def _plain(config: LoraConfig) -> LoraConfig:
    config.init_lora_weights = True  # the weights come from the checkpoint; starting anew would cost a pass of the data
    config.eva_config = None
    config.inference_mode = False
    return config


def _further(model: PreTrainedModel, adapter: str) -> PeftModel:
    import peft

    if not (Path(adapter) / "adapter_config.json").exists() and Path(adapter).exists():
        raise CheckpointError(f"{adapter}: not an adapter (no adapter_config.json)", "check model.adapter")
    try:
        config = peft.PeftConfig.from_pretrained(adapter)
        modules = [name for name, module in model.named_modules() if hasattr(module, "weight")]
        for section in ("rank_pattern", "alpha_pattern"):
            if given := getattr(config, section, None):
                setattr(config, section, by_name(given, modules))
        return peft.PeftModel.from_pretrained(model, adapter, is_trainable=True, config=config)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{adapter}: does not fit the base ({error})", "check model.adapter") from None


def _peft_config(settings: AdapterSettings, modules: Sequence[str], saved: Sequence[str]) -> LoraConfig:
    import peft

    start: bool | str = True if settings.init == "default" else settings.init
    if settings.type in (*CONVERTED, "eva"):
        start = settings.type
    more: dict[str, object] = {}
    if settings.type == "eva":
        more["eva_config"] = peft.EvaConfig(rho=2.0)
    if settings.runtime.ephemeral_gpu_offload:
        more["runtime_config"] = peft.LoraRuntimeConfig(ephemeral_gpu_offload=True)
    return peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha if settings.alpha is not None else 2 * settings.rank,
        lora_dropout=settings.dropout,
        target_modules=list(modules),
        rank_pattern=by_name(settings.rank_pattern, modules),
        alpha_pattern=by_name(settings.alpha_pattern, modules),
        modules_to_save=list(settings.save_modules or saved) or None,
        bias=settings.bias,
        use_rslora=settings.type == "rslora",
        use_dora=settings.type == "dora",
        init_lora_weights=start,
        **more,
    )


def _start_eva(
    wrapped: PeftModel, batches: Callable[[], Iterator[Batch]], forward: Callable[[PreTrainedModel, Batch], ModelOutput]
) -> None:
    """Explained-variance start (Paischer et al. 2024): the inputs of each module, as they come, are its directions."""
    from peft import initialize_lora_eva_weights

    def rows(layer_input: torch.Tensor | tuple[torch.Tensor, ...], model_input: Batch, layer_name: str) -> torch.Tensor:
        values = layer_input[0] if isinstance(layer_input, tuple) else layer_input
        return values.reshape(-1, values.shape[-1])

    initialize_lora_eva_weights(
        wrapped,
        list(batches()),
        forward_fn=forward,
        prepare_model_inputs_fn=None,
        prepare_layer_inputs_fn=rows,
        show_progress_bar=False,
    )
    # EVA leaves its directions in the base's type; others' factors are float32, which PEFT sees to before
    for name, parameter in wrapped.named_parameters():
        if parameter.requires_grad and ".lora_" in name:
            parameter.data = parameter.data.float()


def _save_start(wrapped: PeftModel, directory: Path) -> None:
    """The factors before training, as PEFT's conversion asks for them."""
    config = wrapped.peft_config["default"]
    start, config.init_lora_weights = config.init_lora_weights, True
    wrapped.save_pretrained(directory)
    config.init_lora_weights = start


def save_adapter(
    wrapped: PeftModel,
    settings: AdapterSettings | None,
    directory: Path,
    *,
    base: str,
    logs: Path,
    state: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write the adapter as one of the original base, named by what it was loaded from."""
    config = wrapped.peft_config["default"]
    config.base_model_name_or_path = base
    converted = settings is not None and settings.type in CONVERTED
    more: dict[str, object] = {"path_initial_model_for_weight_conversion": str(logs / INITIAL)} if converted else {}
    if state is not None:
        more["state_dict"] = state
    wrapped.save_pretrained(directory, **more)


def learns_in_float16(model: torch.nn.Module) -> bool:
    """Whether anything that learns is kept in float16: a head beside an adapter too, which has the base's type."""
    import torch

    return any(p.requires_grad and p.dtype == torch.float16 for p in model.parameters())


def merged_model(wrapped: PeftModel) -> PreTrainedModel:
    """The base with the adapter in its weights, as it was trained: a head and an embedding that no longer agree untied.

    PEFT adds what either has learnt to the tensor that the base ties them by, and so to both.
    """
    import torch

    base = wrapped.get_base_model()
    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    configs = (base.config, base.config.get_text_config())
    tied = any(getattr(config, "tie_word_embeddings", False) for config in configs)
    if tied and head is not None and embedding is not None and (_adapted(head) or _adapted(embedding)):
        own = getattr(head, "base_layer", head)
        if own.weight is getattr(embedding, "base_layer", embedding).weight:
            own.weight = torch.nn.Parameter(own.weight.detach().clone(), requires_grad=False)
        for config in configs:
            config.tie_word_embeddings = False
    return wrapped.merge_and_unload()


def _adapted(module: torch.nn.Module) -> bool:
    return any(hasattr(module, name) for name in ("lora_A", "lora_embedding_A", "modules_to_save"))
