"""What papers print: published figures as typed tables, each with its source, and which of them contradict each other.

No file here needs torch or numpy, so that figures are listed at once.
"""
