"""YAML with PySlowFast's keys, read strictly into a frozen ``Config``. Imports no torch.

Reading order: ``schema`` (every key), ``load`` (from file to config), ``legacy`` (keys of
PySlowFast that are not read), ``checks`` (conditions between keys).
"""

from slowfast_mvit.config.config import Config
from slowfast_mvit.config.load import load_config, load_config_text
from slowfast_mvit.config.shipped import find_config, shipped_configs, split_cfg_words

__all__ = [
    "Config",
    "find_config",
    "load_config",
    "load_config_text",
    "shipped_configs",
    "split_cfg_words",
]
