"""Weights of many sources into a model, with a report on every parameter.

zoo.py                the published weights by name: address, preprocessing, classes, accuracy
fetch.py              the local copy of weights named by path, zoo, address or hub
sources.py            the sources: signs in their files, and the key map of each
names.py              the source of a file, and its state dict in our names
inflate.py            image to video, other numbers of frames and pixels
architecture.py       depth, widths, heads and grid of a model, and the published model it is
parameter_actions.py  load, resize, inflate or initialise: the action for one parameter
load.py               ``load_weights``: choose an action for every parameter, then fill the model
files.py              reading a file
report.py             ``LoadReport``: the actions of a load
exports.py            writing files, folders, and the layouts of other libraries
"""

from slowfast_mvit.weights.load import load_weights
from slowfast_mvit.weights.report import LoadReport

__all__ = ["LoadReport", "load_weights"]
