"""What a shift of the representations can cost: the theorems of THEORY.md, section 4."""

from gmijax.bounds._audit import Audit, AuditRow, audit
from gmijax.bounds._consistency import inconsistencies
from gmijax.bounds._gap import CertifiedGap, certified_gap
from gmijax.bounds._lipschitz import caps, inputs, messages, paper, sub_gaussian, supremum
from gmijax.bounds._local import LocalRemoval, local_removal
from gmijax.bounds._result import Bound, Bracket
from gmijax.bounds._scores import edit_bracket, score_shift, shift_bracket

__all__ = [
    "Audit",
    "AuditRow",
    "Bound",
    "Bracket",
    "CertifiedGap",
    "LocalRemoval",
    "audit",
    "caps",
    "certified_gap",
    "edit_bracket",
    "inconsistencies",
    "inputs",
    "local_removal",
    "messages",
    "paper",
    "score_shift",
    "shift_bracket",
    "sub_gaussian",
    "supremum",
]
