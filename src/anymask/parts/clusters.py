"""Targets that are clusters of a teacher's codes, found while training (CAPI, arXiv:2502.08769)."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.engine import Head, Model, Step, take
from anymask.parts.losses import divergence, mean_of
from anymask.parts.teachers import Teacher
from anymask.recipe import RecipeError


@torch.no_grad()
def sinkhorn(scores: Tensor, rounds: int = 3) -> Tensor:
    """Assignments of samples to clusters that all clusters share alike: scores (..., S, K) -> (..., S, K), a
    distribution over clusters for each sample; the sums over samples are the more equal the more rounds there are
    (Sinkhorn and Knopp 1967; SwAV, arXiv:2006.09882, section 3.1)."""
    logs = scores.float()
    for _ in range(rounds):
        logs = logs - logs.logsumexp(-2, keepdim=True)  # every cluster the same share
        logs = logs - logs.logsumexp(-1, keepdim=True)  # every sample one in all
    return logs.exp()


class Clusters(Teacher):
    """The cluster of each asked token, as a distribution (Q, M, clusters): of the teacher's code of it, by its cosine
    to the centres of the clusters, balanced by `sinkhorn` (section 3.2). The centres learn from the same assignments,
    a loss that is added as `clustering` and reaches nothing else.

    Args:
        decay, final, over: see `Teacher`.
        clusters: how many.
        balance: "position", over the samples of the batch at each place by itself, so that clusters do not stand for
            places; "all", over all tokens of the batch, for small ones; "none", without, for comparison.
        student, teacher: temperatures of the predictions and of the cosines.
        rounds: of `sinkhorn`.
        lr: factor of the learning rate of the centres.
    """

    def __init__(
        self,
        model: Model,
        *,
        decay: float = 0.999,
        final: float = 1.0,
        over: int | None = None,
        clusters: int = 16384,
        balance: str = "position",
        student: float = 0.12,
        teacher: float = 0.06,
        rounds: int = 3,
        lr: float = 0.5,
    ):
        super().__init__(model, decay=decay, final=final, over=over)
        if balance not in ("position", "all", "none"):
            raise RecipeError(f'target.balance is "position", "all" or "none", not {balance!r}')
        if clusters < 2 or min(student, teacher, lr) <= 0 or rounds < 1:
            raise RecipeError(
                "target.clusters is 2 or more, temperatures and target.lr above 0, target.rounds 1 or more; not "
                f"clusters={clusters}, student={student}, teacher={teacher}, lr={lr}, rounds={rounds}"
            )
        self.balance, self.sharp, self.rounds, self.rate = balance, teacher, rounds, lr
        self.heads = {"clusters": Head(clusters)}
        self.losses = {"clusters": functools.partial(divergence, temperature=student)}
        self.centres = nn.Parameter(F.normalize(torch.randn(clusters, model.size.width), dim=-1))

    def attach(self, model: Model) -> None:
        super().attach(model)
        self.centres.requires_grad_(True)

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        latent = self.whole(step, model)
        with torch.autocast(latent.x.device.type, enabled=False):
            codes = F.normalize(latent.x.float(), dim=-1)  # B N D
            scores = codes @ F.normalize(self.centres, dim=-1).T / self.sharp  # B N K
            assigned = self.assign(scores.detach(), latent.ok)
            step.aux["clustering"] = mean_of(-(assigned * scores.log_softmax(-1)).sum(-1), latent.ok)
        return {"clusters": take(assigned, step.mask.ask, step.mask.ask_of)}

    def assign(self, scores: Tensor, ok: Tensor | None = None) -> Tensor:
        """(B, N, K) a distribution over clusters for each token; tokens that are not `ok` (B, N) take no part."""
        if self.balance == "none":
            return scores.softmax(-1)
        if ok is not None:
            scores = torch.where(ok[..., None], scores, -1e4)  # nothing of a cluster's share
        if self.balance == "all":
            return sinkhorn(scores.flatten(0, 1), self.rounds).view_as(scores)
        return sinkhorn(scores.transpose(0, 1), self.rounds).transpose(0, 1)

    def groups(self) -> dict[str, dict[str, float]]:
        return {"centres": {"lr": self.rate, "weight_decay": 0.0}}
