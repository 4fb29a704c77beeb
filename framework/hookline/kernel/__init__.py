"""One iteration on the device, and all that belongs to it; torch and the standard library only.

::

    step      k forwards and backwards, then one optimizer update, or none
    losses    what a model returned, checked
    backward  what Tensor.backward does, with less to look up
    update    the optimizer's update as one fused call
    fused     torch's fused functions, and what they are called with
    identity  whether things are the very same
    buffers   what a forward changes besides gradients, and how it is undone
    graph     a whole iteration as one CUDA graph
    capture   the device's side of that, and how an iteration is undone
"""

from hookline.kernel.graph import ForwardWatch, GraphKernel
from hookline.kernel.step import AUTOCAST_DTYPES, StepKernel

__all__ = ["AUTOCAST_DTYPES", "ForwardWatch", "GraphKernel", "StepKernel"]
