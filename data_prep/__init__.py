"""Scripts that prepare videos and lists: run one as ``python data_prep/NAME.py --help``.

They import the package, and nothing in the package imports them.
"""
