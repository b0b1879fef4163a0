"""Scripts that prepare videos and lists: run one as ``python data_prep/NAME.py --help``.

They stand on top of the package: they may import it, and nothing in it imports them.
"""
