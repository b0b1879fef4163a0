"""Weights from anywhere into a model, with an account of every parameter.

sources.py   other origins: what their files show, and the key map of each
names.py     whose file it is, and what its parameters are called here
inflate.py   image to video, other numbers of frames and pixels
fates.py     what becomes of one parameter
load.py      ``load_weights``: decide the fate of every parameter, then fill the model, or raise
files.py     what is in a file
report.py    ``LoadReport``: the account
"""

from slowfast_mvit.weights.load import load_weights
from slowfast_mvit.weights.report import LoadReport

__all__ = ["LoadReport", "load_weights"]
