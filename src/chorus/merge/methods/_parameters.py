"""Parameters that several methods have, said once."""

from __future__ import annotations

from typing import Annotated, Literal

from chorus.merge.method import Between, PerModel

DeltaWeight = Annotated[PerModel[float], "factor of each delta"]
ValuesWeight = Annotated[PerModel[float], "factor of each model's singular values"]
VoteWeight = Annotated[PerModel[float], "weight of each model in the vote and in the sum"]
InnerWeight = Annotated[PerModel[float], "weight of each model, the inner method's too"]
NormalizeSum = Annotated[bool, "divide by the sum of the weights"]
NormalizeVote = Annotated[bool, "divide by the weights of the models that agree"]
Lambda = Annotated[float, "factor of the merged delta"]
Int8Mask = Annotated[bool, "without effect; mergekit's temporaries"]
# DARE
KeepProbability = Annotated[PerModel[float], Between(0, 1), "probability that a value is kept"]
DareRescale = Annotated[Literal["l1", "expectation", "none"], "how the rest is scaled; true means l1, false none"]
# Breadcrumbs
BandDensity = Annotated[PerModel[float], Between(0, 1), "share of values kept below the largest"]
BandGamma = Annotated[PerModel[float], Between(0, 1), "share of the largest values that is dropped"]
L1Rescale = Annotated[bool, "give each sparse delta back its L1 norm"]
