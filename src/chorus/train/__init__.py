"""Fine-tuning: full and adapters, one or many specialists. `chorus.train(config)` calls `chorus.train.run.train`."""

from chorus.lazy import make_callable

make_callable(__name__, "chorus.train.run", "train")
