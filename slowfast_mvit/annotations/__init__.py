"""Annotations of videos and images: parse a file or a folder, name the classes, match the files.

    kinetics.py        label,youtube_id,time_start,...   the published CSV files
    ssv2.py            labels.json, train.json, ...      Something-Something v2
    imagenet.py        <split>/<synset>/<image>, JSON    ImageNet
    class_folders.py   <split>/<class>/<file>            folders of classes
    csv_lists.py       path label                        PySlowFast's lists
    tables.py          file,label,split                  a table of labels, in any order of columns

Training (``data/lists``) and ``data_prep`` read through these modules alike. An entry that cannot
be used is a ``Problem`` with its file, line, kind and message; the callers decide which are fatal.
"""
