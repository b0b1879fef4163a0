import sys
from pathlib import Path

# tiny_run.py is also started as a program of its own, so it is found by its folder.
sys.path.insert(0, str(Path(__file__).parent))
