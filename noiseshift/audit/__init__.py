"""A sampler's levels without a network: its conditioning levels, those its states are taken to have, those each step reaches.

found = ns.audit("diffusers/DDIMScheduler:13,timestep_spacing=linspace")
for finding in found.findings:
    print(finding.sentence, finding.remedy)
print(found.table())
"""

import sys
from types import ModuleType

from noiseshift.audit.findings import Finding
from noiseshift.audit.report import Audit, audit

__all__ = ["Audit", "Finding", "audit"]


class _Called(ModuleType):
    """`ns.audit` is this package once it was imported, and the function before: both are called alike."""

    __call__ = staticmethod(audit)


sys.modules[__name__].__class__ = _Called
