"""From the probabilities of views to numbers, files and a report.

ViewScores -> ``records`` (of the test that ``identity`` names) -> ``ensemble`` -> VideoScores
-> ``results`` (with ``metrics``) -> EvalResult -> test_results.json, test_scores.npz, and
``report`` -> report.html (``page``, ``charts`` and ``pictures`` are its parts, each with its style
sheet where it has one).
"""
