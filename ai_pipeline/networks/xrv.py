"""Labels and operating points of torchxrayvision's released weights, by the names in that library.

From ``model_urls`` in ``torchxrayvision/models.py`` (version 1.5.7, Apache-2.0,
github.com/mlmed/torchxrayvision; Cohen et al., MIDL 2022). An output that was not trained, or has no
operating point, is left out of a converted model: the library itself answers .5 for it, whatever the image.
"""

from __future__ import annotations

from dataclasses import dataclass

TARGETS = (
    "Atelectasis", "Consolidation", "Infiltration", "Pneumothorax", "Edema", "Emphysema", "Fibrosis",
    "Effusion", "Pneumonia", "Pleural_Thickening", "Cardiomegaly", "Nodule", "Mass", "Hernia",
    "Lung Lesion", "Fracture", "Lung Opacity", "Enlarged Cardiomediastinum",
)  # fmt: skip
"""The outputs of every one of its networks, in their order."""

REACH = 1024.0  # black is -1024, white +1024


@dataclass(frozen=True, slots=True)
class Release:
    """One file of released weights: ``file``: the beginning of its name; ``points``: ``op_threshs``, None for
    NaN.
    """

    architecture: str
    size: int
    file: str
    points: tuple[float | None, ...]


def release(name: str, file: str) -> str | None:
    """The key in RELEASES: ``name`` itself, or the key whose ``file`` begins the name of
    ``file``; else None.
    """
    if name:
        return name if name in RELEASES else None
    return next((key for key, known in RELEASES.items() if file.startswith(known.file)), None)


N: None = None
RELEASES = {
    "densenet121-res224-all": Release(
        "densenet121", 224, "nih-pc-chex-mimic_ch-google-openi-kaggle-densenet121-",
        (0.07422872, 0.038290843, 0.09814756, 0.0098118475, 0.023601074, 0.0022490358, 0.010060724,
         0.103246614, 0.056810737, 0.026791653, 0.050318155, 0.023985857, 0.01939503, 0.042889766,
         0.053369623, 0.035975814, 0.20204692, 0.05015312),
    ),
    "densenet121-res224-nih": Release(
        "densenet121", 224, "nih-densenet121-",
        (0.039117552, 0.0034529066, 0.11396341, 0.0057298196, 0.00045666535, 0.0018880932, 0.012037827,
         0.038744126, 0.0037213727, 0.014730946, 0.016149804, 0.054241467, 0.037198864, 0.0004403434,
         N, N, N, N),
    ),
    "densenet121-res224-pc": Release(
        "densenet121", 224, "pc-densenet121-",
        (0.031012505, 0.013347598, 0.081435576, 0.001262615, 0.002587246, 0.0035944257, 0.0023071,
         0.055412333, 0.044385884, 0.042766232, 0.043258056, 0.037629247, 0.005658899, 0.0091741895,
         N, 0.026507627, N, N),
    ),
    "densenet121-res224-chex": Release(
        "densenet121", 224, "chex-densenet121-",
        (0.1988969, 0.05710573, N, 0.0531293, 0.1435217, N, N, 0.27212676, 0.07749717, N, 0.19712369, N, N, N,
         0.09932402, 0.09273402, 0.3270967, 0.10888247),
    ),
    "densenet121-res224-rsna": Release(
        "densenet121", 224, "kaggle-densenet121-",
        (N, N, N, N, N, N, N, N, 0.13486601, N, N, N, N, N, N, N, 0.13511065, N),
    ),
    "densenet121-res224-mimic_nb": Release(
        "densenet121", 224, "mimic_nb-densenet121-",
        (0.08558747, 0.011884617, N, 0.0040595434, 0.010733786, N, N, 0.118761964, 0.022924708, N,
         0.06358637, N, N, N, 0.022143636, 0.017476924, 0.1258702, 0.014020768),
    ),
    "densenet121-res224-mimic_ch": Release(
        "densenet121", 224, "mimic_ch-densenet121-",
        (0.09121389, 0.010573786, N, 0.005023008, 0.003698257, N, N, 0.08001232, 0.037242252, N,
         0.05006329, N, N, N, 0.019866971, 0.03823637, 0.11303808, 0.0069147074),
    ),
    "resnet50-res512-all": Release(
        "resnet50", 512, "pc-nih-rsna-siim-vin-resnet50-",
        (0.51570356, 0.50444704, 0.53787947, 0.50723547, 0.5025118, 0.5035252, 0.5038076, 0.51862943,
         0.5078151, 0.50724894, 0.5056339, 0.510706, 0.5053923, 0.5020846, N, 0.5080557, 0.5138526, N),
    ),
}  # fmt: skip
"""Released weights by the name that ``torchxrayvision.models.get_model`` takes."""
