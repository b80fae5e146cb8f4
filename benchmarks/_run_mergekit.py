"""Run many mergekit recipes in one process of mergekit's own environment: python _run_mergekit.py JOBS.json"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

for recipe, out in json.loads(Path(sys.argv[1]).read_text()):
    try:
        config = MergeConfiguration.model_validate(yaml.safe_load(Path(recipe).read_text()))
        run_merge(
            config, out, options=MergeOptions(random_seed=0, quiet=True, copy_tokenizer=False, write_model_card=False)
        )
    except Exception:
        print(f"mergekit failed on {recipe}\n{traceback.format_exc()}", file=sys.stderr)
