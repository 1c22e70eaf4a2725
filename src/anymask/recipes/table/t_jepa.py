from anymask.claims import Claim, Regress
from anymask.parts.decoders import Transformer
from anymask.parts.encoders import ViT
from anymask.parts.losses import mse
from anymask.parts.tables import ColumnEmbed, Subsets
from anymask.parts.teachers import Codes
from anymask.recipe import P, recipe
from anymask.recipes.table.remasker import remasker
from anymask.train.optim import adamw, warmup_cosine


@recipe(parent=remasker, paper="arXiv:2410.05016", name="T-JEPA")
def t_jepa(r):
    """Codes of hidden columns are predicted from visible columns of the row; the codes are those of a slow teacher that
    sees the whole row, and a regularisation token without content is beside the columns.

    Run: anymask pretrain TABLE.csv --recipe t-jepa --label COLUMN --epochs 100 --batch-size 128
    Cost: an epoch of 16,512 rows of 8 columns takes about 6 seconds on two CPU cores.
    Expected: RMSE of California housing 0.468 by an MLP on the codes, 0.518 on raw input, 0.430 by CatBoost (the
        authors' README). Not reproduced: networks on the codes; the search of sizes, shares and rates for each data
        set; the teacher's codes as features (the encoder's here).
    """
    return r.but(
        {"tokenizer.standardise": True},
        mask=P(Subsets, shown=(0.2, 0.6), asked=(0.2, 0.6), parts=4),
        stem=P(ColumnEmbed),
        encoder=P(ViT, cls=False, registers=1),
        decoder=P(Transformer),
        target=P(Codes, decay=0.97),
        loss=mse,
        optimiser=P(adamw, lr=1e-3, lr_batch=128, lr_width=1, betas=(0.9, 0.95), weight_decay=0.0),
        schedule=P(warmup_cosine, warmup=0.05),
    )


claim = Claim(
    text="a regularisation token beside the columns makes better codes than none (section 3.3)",
    better_than=lambda r: r.but({"encoder.registers": 0}),
    on="california_housing/california_housing.csv",
    metric=Regress("MedHouseVal"),
    smallest_effect=1.0,
    size="pico",
    epochs=20,
    samples=4000,
    batch_size=128,
)
