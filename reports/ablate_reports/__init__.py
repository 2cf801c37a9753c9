"""Frames in, verdicts, tables, figures and one offline HTML page out."""
