"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv 2409.11321).

Rate and distortion pull the weights in directions that Adam's scaling per weight cannot tell apart;
a rotated basis can. Written here because the library's version spends more time than the network on
a CPU: convolutions in channels_last memory are plain matrices (outputs, places * inputs), both
rotations plain matrix products, and the first moment lives in the rotated basis.
"""

import torch
from torch.optim import Optimizer

MAX_SIDE = 768  # longer sides keep their own basis
EPSILON = 1e-8  # added to the root of the second moment
ACCUMULATE_EVERY = 4  # steps between looks at the second moments, which move slowly


class SOAP(Optimizer):
    """Convolution weights (O, I, kh, kw) are rotated on both channel axes; all else gets plain Adam,
    as do parameter groups with `rotate` False.

    Decoupled weight decay; the basis is refreshed every `refresh` steps by one power iteration.
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
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)

    def _update(self, p: torch.Tensor, group: dict) -> None:
        g = _as_matrices(p.grad)
        state = self.state[p]
        if not state:
            state["step"] = 0
            for side, size in (("left", g.shape[0]), ("right", g.shape[2])):
                if group["rotate"] and p.dim() == 4 and 1 < size <= MAX_SIDE:
                    state[side] = torch.zeros(size, size, device=p.device)
            _accumulate(state, g, 1.0)
            for side in _sides(state):
                state[f"basis_{side}"] = torch.linalg.eigh(state[side])[1].flip(1)
            state["first"], state["second"] = torch.zeros_like(g), torch.zeros_like(g)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        rotated = _rotate(state, g, back=False)
        state["first"].lerp_(rotated, 1 - beta1)
        state["second"].mul_(beta2).addcmul_(rotated, rotated, value=1 - beta2)
        correction1, correction2 = 1 - beta1 ** state["step"], 1 - beta2 ** state["step"]
        update = state["first"] / (state["second"] / correction2).sqrt_().add_(EPSILON)
        update = _from_matrices(_rotate(state, update, back=True), p)
        p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] / correction1)
        if state["step"] % ACCUMULATE_EVERY == 0:
            _accumulate(state, g, 1 - beta2**ACCUMULATE_EVERY)
        if state["step"] % group["refresh"] == 0:
            _refresh(state)


def _as_matrices(t: torch.Tensor) -> torch.Tensor:
    """A weight as (outputs, places, inputs): a view where it is channels_last; vectors as (1, 1, n)."""
    if t.dim() == 4:
        return t.permute(0, 2, 3, 1).reshape(t.shape[0], -1, t.shape[1])
    return t.reshape(1, 1, -1)


def _from_matrices(m: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if like.dim() == 4:
        o, i, h, w = like.shape
        return m.view(o, h, w, i).permute(0, 3, 1, 2)
    return m.view(like.shape)


def _sides(state: dict) -> list[str]:
    return [side for side in ("left", "right") if side in state]


def _rotate(state: dict, m: torch.Tensor, back: bool) -> torch.Tensor:
    if "left" in state:
        basis = state["basis_left"]
        m = ((basis if back else basis.T) @ m.flatten(1)).view(m.shape)
    if "right" in state:
        basis = state["basis_right"]
        m = m @ (basis.T if back else basis)
    return m


def _accumulate(state: dict, g: torch.Tensor, weight: float) -> None:
    """Moving averages of the second moments of outputs and of inputs."""
    if "left" in state:
        flat = g.flatten(1)
        state["left"].lerp_(flat @ flat.T, weight)
    if "right" in state:
        flat = g.flatten(0, 1)
        state["right"].lerp_(flat.T @ flat, weight)


def _refresh(state: dict) -> None:
    """New bases; the moments follow: the first exactly, the second by the order of its directions."""
    first = _rotate(state, state["first"], back=True)
    for side in _sides(state):
        basis = state[f"basis_{side}"]
        product = state[side] @ basis
        order = (basis * product).sum(0).argsort(descending=True)
        state["second"] = state["second"].index_select(0 if side == "left" else 2, order)
        state[f"basis_{side}"] = torch.linalg.qr(product[:, order])[0]
    state["first"] = _rotate(state, first, back=False)
