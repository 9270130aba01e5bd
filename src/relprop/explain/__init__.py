"""Explaining: record a forward, seed its output, propagate, balance the books."""

from relprop.explain.audit import Audit as Audit
from relprop.explain.explanation import Explanation as Explanation
from relprop.explain.lrp import KEYWORDS as KEYWORDS
from relprop.explain.lrp import LRP as LRP
from relprop.explain.lrp import check_lrp as check_lrp
