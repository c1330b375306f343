"""apply-opt: put known optimizations into a checkout of somebody else's model code, and take them out again.

The layers point one way: ``cli`` -> ``commands`` -> ``io`` -> ``model`` -> ``errors``.
"""

__version__ = "0.1.0"
