"""Prediction of many and of long videos: sources, reading, scoring, timelines, output."""
