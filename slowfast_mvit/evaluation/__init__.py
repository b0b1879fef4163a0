"""From the probabilities of views to numbers, files and a report.

ViewScores -> ``records`` (in the folder that ``run_fingerprint`` names) -> ``ensemble``
-> VideoScores -> ``results`` (with ``metrics``) -> EvalResult -> test_results.json,
test_scores.npz, and ``report`` -> report.html (``report.html.jinja``, which ``page`` fills in with
the numbers of ``charts`` and the thumbnails of ``images``; its style sheets are page.css and
charts.css).
"""
