"""From the probabilities of views to numbers, files and a report: ensemble, metrics, results."""
