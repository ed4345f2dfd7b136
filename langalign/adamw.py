"""AdamW without what torch.compile brings: seconds and tens of MiB that nothing here uses."""

from inspect import unwrap

import torch

__all__ = ["AdamW"]


class AdamW(torch.optim.AdamW):
    """The optimiser of torch; its methods as they are without torch.compile's decorators.

    The first of them that is called imports all of torch.compile, so as to switch it off. That is
    about 2 s and 70 MiB of a process that trains alone (one of several imports it with
    DistributedDataParallel), and nothing is compiled here. `differentiable` has no effect.
    """

    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    load_state_dict = unwrap(torch.optim.AdamW.load_state_dict)
    state_dict = unwrap(torch.optim.AdamW.state_dict)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))
    zero_grad = unwrap(torch.optim.AdamW.zero_grad)
