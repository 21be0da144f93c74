"""A loss and its gradients; on CUDA recorded once as a graph and replayed.

A step is some thousand small operations. An accelerator runs them faster than Python starts them.
"""

from collections.abc import Callable

import torch

WARM_UP = 3  # calls before the recording, in which the libraries choose their kernels

Objective = tuple[torch.Tensor, dict[str, torch.Tensor]]  # what is differentiated, and the terms for the log


class Gradients:
    """`gradients(*inputs)` calls a function of tensors and sets the gradients of its parameters.

    On CUDA the inputs' shapes and types are those of the first call, the result is overwritten by the next call,
    and the function must stay on the device: a look at a value would end the recording with a RuntimeError.
    """

    def __init__(self, function: Callable[..., Objective], parameters: list[torch.nn.Parameter]):
        self.function, self.parameters = function, parameters
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: torch.Tensor) -> Objective:
        if inputs[0].device.type != "cuda":
            return self._differentiate(inputs)
        if self._graph is None:
            self._record(inputs)
        for own, given in zip(self._inputs, inputs):
            own.copy_(given)
        self._graph.replay()
        for p, gradient in zip(self.parameters, self._gradients):
            p.grad = gradient
        return self._objective

    def _differentiate(self, inputs: tuple[torch.Tensor, ...]) -> Objective:
        for p in self.parameters:
            p.grad = None
        loss, terms = self.function(*inputs)
        loss.backward()
        return loss.detach(), terms

    def _record(self, inputs: tuple[torch.Tensor, ...]) -> None:
        self._inputs = [given.clone() for given in inputs]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside), _fast():
            for _ in range(WARM_UP):
                self._differentiate(self._inputs)
        torch.cuda.current_stream().wait_stream(aside)
        for p in self.parameters:  # the recording allocates gradients of its own
            p.grad = None
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph), _fast():
            self._objective = self._differentiate(self._inputs)
        self._gradients = [p.grad for p in self.parameters]


def _fast():
    """The fastest of cuDNN's kernels for these sizes. The linear path is float32, and more coarse types spoil it."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)
