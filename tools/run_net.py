#!/usr/bin/env python3
"""PySlowFast's entry point: train and test what a config file asks for.

python tools/run_net.py --cfg configs/Kinetics/MVITv2_S_16x4.yaml DATA.PATH_TO_DATA_DIR /data/k400
"""

import sys
from pathlib import Path

# The code beside this file, installed or not, and not another version that may be installed too.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from slowfast_mvit.cli import run_net

if __name__ == "__main__":
    sys.exit(run_net())
