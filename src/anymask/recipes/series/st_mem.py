"""A system first published for electrocardiograms."""
from anymask.claims import Claim, FewLabelsPrecision
from anymask.parts.corruptions import Drop
from anymask.parts.ecg import LeadPatches, LeadsAndTimes, LeadsByTime, LeadViT, Leadwise
from anymask.recipe import P, recipe
from anymask.recipes.series.patchtst import patchtst


@recipe(parent=patchtst, paper="arXiv:2402.09450", name="ST-MEM")
def st_mem(r):
    """Patches of all leads in one transformer, 75 % of each lead hidden; each lead is decoded by itself.

    Run: anymask pretrain RECORDS --recipe st-mem --size base --epochs 800 --batch-size 1024
    Cost: the paper pre-trains ViT-B on 188,480 records of 12 leads and 10 s (Chapman, Ningbo, CODE-15).
    Expected: PTB-XL, linear, accuracy 0.838 and AUROC 0.898 (paper). Not reproduced: these data; two SEP tokens a lead
        (here one), the scale of a whole record (here each lead's).
    """
    return r.but(
        {"target.normalise": True},
        tokenizer=P(LeadPatches),
        mask=P(LeadsAndTimes, ratio=0.75),
        corruption=P(Drop),
        positions=P(LeadsByTime),
        encoder=P(LeadViT),
        decoder=P(Leadwise),
        optimiser={"lr": 1e-3, "lr_batch": 256, "lr_width": 384, "betas": (0.9, 0.95), "weight_decay": 0.01},
    )


claim = Claim(
    text="hiding patches of each lead by itself gives better features than hiding all leads at the same moments "
    "(table 5, MTAE)",
    better_than=lambda r: r.but({"mask.times": 1.0}),
    on="ecg_wfdb/100.hea",
    opening={"label": "beat", "parts": "0.5,0.1,0.4"},
    metric=FewLabelsPrecision(positive="A", negative="N", labels=10, draws=20),
    smallest_effect=2.0,
    epochs=20,
    samples=1_100,
    batch_size=64,
)
