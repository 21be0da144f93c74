"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv 2409.11321).

Rate and distortion pull the weights in directions that Adam's scaling per weight cannot tell apart;
a rotated basis can. Written here because the library's version spends more time than the network on
a CPU: convolutions in channels_last memory are plain matrices (outputs, places * inputs), both
rotations plain matrix products, and the first moment lives in the rotated basis. Weights of one shape are
updated together, as one stack, and so are all that are not rotated: an accelerator would spend most of the time
on starting small operations.
"""

import torch
from torch.optim import Optimizer

MAX_SIDE = 768  # longer sides keep their own basis
EPSILON = 1e-8  # added to the root of the second moment
ACCUMULATE_EVERY = 4  # steps between looks at the second moments, which move slowly


class SOAP(Optimizer):
    """Convolution weights (O, I, kh, kw) are rotated on both channel axes; all else gets plain Adam,
    as do parameter groups with `rotate` False.

    Decoupled weight decay; the basis is refreshed every `refresh` steps by one power iteration. The same
    parameters have gradients at every step. The state of a stack is kept with its first parameter.
    """

    def __init__(
        self,
        params,
        lr: float,
        betas: tuple[float, float] = (0.95, 0.95),
        weight_decay: float = 0.01,
        refresh: int = 12,
        rotate: bool = True,
    ):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay, refresh=refresh, rotate=rotate))

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every parameter with a gradient; returns None, closures are not supported."""
        if closure is not None:
            raise ValueError("SOAP takes no closure")
        for group in self.param_groups:
            stacks: dict[tuple, list[torch.Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shape = p.shape if group["rotate"] and p.dim() == 4 else None
                    stacks.setdefault((shape, p.device), []).append(p)
            for (shape, _), stack in stacks.items():
                self._update(stack, group, shape)

    def _update(self, stack: list[torch.Tensor], group: dict, shape: torch.Size | None) -> None:
        """Parameters of one shape, or of any where it is None: they are not rotated."""
        g = _stacked([p.grad for p in stack], shape)
        state = self.state[stack[0]]
        if not state:
            state["step"] = 0
            for side, size in (("left", g.shape[1]), ("right", g.shape[3])):
                if shape and 1 < size <= MAX_SIDE:
                    state[side] = g.new_zeros(len(g), size, size)
            _accumulate(state, g, 1.0)
            for side in _sides(state):
                state[f"basis_{side}"] = torch.linalg.eigh(state[side])[1].flip(2)
            state["first"], state["second"] = torch.zeros_like(g), torch.zeros_like(g)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        rotated = _rotate(state, g, back=False)
        state["first"].lerp_(rotated, 1 - beta1)
        state["second"].mul_(beta2).addcmul_(rotated, rotated, value=1 - beta2)
        correction1, correction2 = 1 - beta1 ** state["step"], 1 - beta2 ** state["step"]
        update = state["first"] / (state["second"] / correction2).sqrt_().add_(EPSILON)
        updates = _unstacked(_rotate(state, update, back=True), stack, shape)
        torch._foreach_mul_(stack, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(stack, updates, alpha=-group["lr"] / correction1)
        if state["step"] % ACCUMULATE_EVERY == 0:
            _accumulate(state, g, 1 - beta2**ACCUMULATE_EVERY)
        if state["step"] % group["refresh"] == 0:
            _refresh(state)


def _stacked(tensors: list[torch.Tensor], shape: torch.Size | None) -> torch.Tensor:
    """Weights of one shape as (n, outputs, places, inputs), views where they are channels_last; others as one row."""
    if shape is None:
        return torch.cat([t.flatten() for t in tensors]).view(1, 1, 1, -1)
    return torch.stack([t.permute(0, 2, 3, 1) for t in tensors]).flatten(2, 3)


def _unstacked(m: torch.Tensor, like: list[torch.Tensor], shape: torch.Size | None) -> list[torch.Tensor]:
    if shape is None:
        return [part.view(t.shape) for part, t in zip(m.flatten().split([t.numel() for t in like]), like)]
    return list(m.unflatten(2, shape[2:]).permute(0, 1, 4, 2, 3).unbind())


def _sides(state: dict) -> list[str]:
    return [side for side in ("left", "right") if side in state]


def _rotate(state: dict, m: torch.Tensor, back: bool) -> torch.Tensor:
    """m (n, outputs, places, inputs) into the bases, or back."""
    if "left" in state:
        basis = state["basis_left"]
        m = ((basis if back else basis.mT) @ m.flatten(2)).view(m.shape)
    if "right" in state:
        basis = state["basis_right"]
        m = (m.flatten(1, 2) @ (basis.mT if back else basis)).view(m.shape)
    return m


def _accumulate(state: dict, g: torch.Tensor, weight: float) -> None:
    """Moving averages of the second moments of outputs and of inputs."""
    if "left" in state:
        flat = g.flatten(2)
        state["left"].lerp_(flat @ flat.mT, weight)
    if "right" in state:
        flat = g.flatten(1, 2)
        state["right"].lerp_(flat.mT @ flat, weight)


def _refresh(state: dict) -> None:
    """New bases; the moments follow: the first exactly, the second by the order of its directions."""
    first = _rotate(state, state["first"], back=True)
    for side in _sides(state):
        basis = state[f"basis_{side}"]
        product = state[side] @ basis
        order = (basis * product).sum(1).argsort(dim=1, descending=True)  # (n, size)
        index, axis = (order[:, :, None, None], 1) if side == "left" else (order[:, None, None], 3)
        state["second"] = torch.take_along_dim(state["second"], index, axis)
        state[f"basis_{side}"] = torch.linalg.qr(torch.take_along_dim(product, order[:, None], 2))[0]
    state["first"] = _rotate(state, first, back=False)
