"""Which regions of the core stay where their neighbours are, because they cost more than they save; and what does
not fit.
"""

from __future__ import annotations


def unworthy(walked, regions, arch):
    return {}
