import sys
from pathlib import Path

# tiny_run.py is also started as a program of its own, so it is found by its folder; renaming.py
# is in the folder of the tests of the models.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "models")]
