"""From the probabilities of views to metrics, files and a report.

ViewScores -> ``records`` (in the folder of the run fingerprint) -> ``ensemble`` -> VideoScores
-> ``results`` (with ``metrics``) -> EvalResult -> test_results.json, test_scores.npz, and
``report`` -> report.html (``report.html.jinja``, which ``page`` fills with the numbers of
``charts``; its style sheets are page.css, charts.css and videos.css). ``video_table`` and videos.js
are its table of all videos. ``provenance`` and ``thumbnails`` are the other files of a test that a
report is made of; ``files`` reads all of them.
"""
