"""Subjects whose truth is known by construction, and how often the verdicts about them are right."""
