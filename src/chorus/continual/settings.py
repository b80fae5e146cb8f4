"""How one more model is added: checked before anything is read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from chorus.settings import Strict

Way = Literal["fta", "weighted", "opcm"]
Form = Literal["auto", "adapter", "model"]
GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Continuing(Strict):
    """How a model is added to a merge x of t models.

    method   fta: the running average, x t / (t + 1) and the new model y / (t + 1); weighted: alpha (l x + (1 - l) y);
             opcm: y without what would change the directions of x
    weight   weighted: l, what the earlier merge counts; several are tried on dev
    alpha    weighted: the factor of the sum
    protect  opcm: the share of x's singular values whose directions are kept as they are
    rule     weighted: how the figures on several dev sets become the one that chooses
    form     what is written; auto: an adapter where x (or, at the beginning, y alone) and y are adapters
    energy   adapters: the share of each module's squared norm that is kept; 1: all of it
    dtype    of what is written: a state in float32 loses nothing by being stored
    """

    method: Way = "fta"
    weight: list[Share] = Field(default_factory=list)
    alpha: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    protect: Share = 0.5
    rule: Literal["mean", "minimum"] = "mean"
    form: Form = "auto"
    energy: float = Field(default=0.99, gt=0, le=1, allow_inf_nan=False)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    @model_validator(mode="after")
    def _fits(self) -> Continuing:
        # a setting that another method would leave unread is a slip, and its result would look like what was asked for
        others = {"weight": ("weighted", self.weight), "alpha": ("weighted", self.alpha != 1.0),
                  "rule": ("weighted", self.rule != "mean"), "protect": ("opcm", self.protect != 0.5)}  # fmt: skip
        for name, (method, given) in others.items():
            if given and self.method != method:
                raise ValueError(f"{name} is {method}'s: say --method {method}, or leave it out")
        return self
