from anymask.claims import Claim, Rebuild
from anymask.data.augment import MirrorScale
from anymask.parts.corruptions import Drop
from anymask.parts.decoders import Transformer
from anymask.parts.encoders import ViT
from anymask.parts.losses import binary, chamfer, smooth_l1
from anymask.parts.points import PointNet
from anymask.parts.positions import SinCos
from anymask.parts.voxels import Hidden, VoxelHeads, Voxels
from anymask.recipe import P, recipe
from anymask.train.optim import adamw, warmup_cosine


@recipe(paper="arXiv:2207.00531", name="Voxel-MAE")
def voxel_mae_lidar(r):
    """Occupied voxels are hidden; their points, how many there are, and which voxels are empty at all are predicted.

    Run: anymask pretrain SWEEPS --recipe voxel-mae-lidar --epochs 200
    Cost: a window of 16 m has some 400 pillars of 0.5 m; a sweep has 49 windows.
    Expected: +1.75 mAP on nuScenes detection over random weights (abstract). Not reproduced: detection, and the
    shifted windows of the paper's encoder (SST), in whose place windows of the sweep are samples.
    """
    return r.but(
        tokenizer=P(Voxels),
        mask=P(Hidden, ratio=0.7),
        corruption=P(Drop),
        stem=P(PointNet, positions=True),
        positions=P(SinCos),
        encoder=P(ViT, cls=False),
        decoder=P(Transformer),
        target=P(VoxelHeads),
        loss={"points": chamfer, "number": smooth_l1, "occupied": binary},
        augment=P(MirrorScale),
        optimiser=P(adamw, lr=1e-3, lr_batch=64, lr_width=384, betas=(0.9, 0.999), weight_decay=0.05),
        schedule=P(warmup_cosine, warmup=0.05),
    )


claim = Claim(
    text="hidden voxels of a sweep never seen are rebuilt better if the model is also asked which voxels are empty",
    better_than=lambda r: r.but({"target.occupancy": False}),
    on="kitti_odometry/velodyne",
    metric=Rebuild(ratio=0.7),
    smallest_effect=0.005,
    epochs=10,
    samples=196,
    batch_size=8,
)
