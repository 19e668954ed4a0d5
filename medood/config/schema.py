"""The typed schema of a run: one dataclass a group of keys. The ``Attributes`` sections are what ``--help`` prints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ReadConfig:
    """From files to scans.

    Attributes:
        frames: which frames, pages or slices become scans: ``all``, ``first``, ``middle`` or ``every N``.
        plane: in which volumes (NIfTI) are sliced: ``axial``, ``coronal`` or ``sagittal``.
        select: which DICOM objects to take, such as ``Modality in (CR, DX) and BodyPartExamined == CHEST``; empty takes all.
        max_pixels: largest picture, in pixels.
        max_bytes: largest file or archive member, in bytes.
        max_members: most members of one archive.
        max_unpacked: most bytes that one archive may unpack to.
        max_ratio: most times its packed size that an archive or member may unpack to; counts above 64 MiB.
        max_frames: most scans (frames, pages or slices) of one file.
        max_decoder_memory: most bytes that unpacking xz or Zstandard may ask for.
    """

    frames: str = "all"
    plane: str = "axial"
    select: str = ""
    max_pixels: int = 50_000_000
    max_bytes: int = 256 * 1024**2
    max_members: int = 1_000_000
    max_unpacked: int = 1024**4
    max_ratio: int = 200
    max_frames: int = 10_000
    max_decoder_memory: int = 128 * 1024**2


@dataclass
class PreprocessConfig:
    """From a scan to the network's input; saved with the detector.

    Attributes:
        size: side of the network's input in pixels.
        fit: ``squash`` to a square, or ``letterbox`` (black bars, aspect ratio kept).
        crops: shares of each side that are scored, around the centre; features and head outputs of several are averaged.
            A network trained on crops is surest of one.
        equalize: spread the grey values evenly (histogram equalisation), which takes the device's grey curve out.
    """

    size: int = 224
    fit: str = "squash"
    crops: list[float] = field(default_factory=lambda: [1.0])
    equalize: bool = False


@dataclass
class DataConfig:
    """The in-distribution scans.

    Attributes:
        root: folder, zip or file of in-distribution scans.
        calibration_root: scans for calibration; empty holds out ``calibration_fraction`` of ``root``.
        calibration_fraction: share of ``root`` held out for calibration, split by patient where PatientID is known.
        development_fraction: share of the rest held out to choose and scale the score, split likewise.
        split_seed: of both splits; empty is ``train.seed``. Networks of several seeds that are asked together need the same.
        limit: use at most this many scans; 0 is all.
        cache: folder for decoded pictures; empty is ``OUT/cache``.
    """

    root: str = ""
    calibration_root: str = ""
    calibration_fraction: float = 0.15
    development_fraction: float = 0.05
    split_seed: int | None = None
    limit: int = 0
    cache: str = ""


@dataclass
class ModelConfig:
    """Backbone and head.

    Attributes:
        backbone: name of a timm model.
        arguments: keyword arguments for ``timm.create_model`` (``patch_size``, ``embed_dim``, ...).
        drop_path: stochastic depth of the student; the teacher has none.
        hidden_dim: width of the head's hidden layers.
        bottleneck_dim: width before the last layer.
        out_dim: number of prototypes; 0 follows the data.
        weights: a safetensors file with weights to begin with: a backbone's, or a detector's ``network.safetensors`` with
            its head. Empty begins at random.
        pretrained: begin with timm's published weights; needs a network, or the file in timm's cache.
    """

    backbone: str = "vit_small_patch16_224"
    arguments: dict[str, Any] = field(default_factory=dict)
    drop_path: float = 0.1
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    out_dim: int = 0
    weights: str = ""
    pretrained: bool = False


@dataclass
class ViewsConfig:
    """Positive views: what must not matter.

    Attributes:
        source_size: side of the cached pictures that crops are taken from.
        global_count: large crops of a picture (teacher and student); at least 2.
        global_scale: range of their share of the picture's area.
        local_count: small crops (student only).
        local_size: side of the small crops in pixels.
        local_scale: range of their share of the picture's area.
        aspect: largest ratio of a crop's sides (1 is square).
        rotation: largest rotation in degrees, either way.
        brightness: largest shift of the grey values, either way.
        contrast: largest relative change of contrast, either way.
        gamma: largest relative change of gamma, either way.
        blur: probability of a Gaussian blur.
        blur_sigma: largest sigma of the blur, in pixels of the view.
        equalize: probability that a view's histogram is equalised.
        detail: largest relative change, either way, of the local contrast and of the coarse light and dark around it, as the
            processing of another device changes them.
    """

    source_size: int = 256
    global_count: int = 2
    global_scale: list[float] = field(default_factory=lambda: [0.4, 1.0])
    local_count: int = 8
    local_size: int = 96
    local_scale: list[float] = field(default_factory=lambda: [0.15, 0.4])
    aspect: float = 1.15
    rotation: float = 5.0
    brightness: float = 0.1
    contrast: float = 0.2
    gamma: float = 0.2
    blur: float = 0.3
    blur_sigma: float = 1.0
    equalize: float = 0.0
    detail: float = 0.0


@dataclass
class NegativesConfig:
    """Negative views: what the domain is not.

    Attributes:
        mixture: shifting transformation to its weight; weights need not sum to 1. Empty trains without negatives.
        sources: pictures that are shifted: ``in_distribution``, ``auxiliary`` or ``both``; each source weighs the same.
        auxiliary: folders or archives of auxiliary pictures, which are first brought to the in-distribution resolution.
        auxiliary_mixture: the mixture for auxiliary pictures, ``image_as_is`` among them; empty is ``mixture``.
        count: negative views of a picture and source.
        scale: range of their share of the picture's area, before the shifting transformation.
        weight: weight of the negative term of the loss.
    """

    mixture: dict[str, float] = field(default_factory=dict)
    sources: str = "in_distribution"
    auxiliary: list[str] = field(default_factory=list)
    auxiliary_mixture: dict[str, float] = field(default_factory=dict)
    count: int = 1
    scale: list[float] = field(default_factory=lambda: [0.6, 1.0])
    weight: float = 1.0


@dataclass
class TrainConfig:
    """Self-distillation.

    Attributes:
        epochs: passes over the training pictures; 0 follows the data.
        batch_size: pictures a step, over all processes; 0 follows the data.
        accumulate: parts that a batch goes through the student in, to save memory; the gradient is that of the whole.
        learning_rate: peak, for a batch of 256; scaled by ``batch_size / 256``.
        final_learning_rate: at the end of the cosine.
        warmup: share of the steps over which the learning rate rises from 0.
        weight_decay: first and last value of its cosine.
        gradient_clip: largest norm of the gradient.
        freeze_last_layer: share of the steps in which the head's last layer stays as it is.
        student_temperature: temperature of the student's softmax.
        teacher_temperature: first and last value of the teacher's temperature; empty follows the data, and so does
            ``center_momentum`` then.
        teacher_cooling: share of the steps over which the teacher cools linearly.
        teacher_momentum: first and last value of the EMA's cosine; empty follows the data.
        center_momentum: momentum of the centre of the teacher's outputs.
        centering: ``mean`` (the paper's) or ``sinkhorn`` (Sinkhorn-Knopp over the batch, 3 rounds).
        koleo: weight of the KoLeo term that spreads features; 0 leaves it out.
        compile: ``torch.compile`` the student and the teacher.
        seed: everything random follows from it.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto``, ``32-true`` or ``bf16-mixed``.
        threads: CPU threads; 0 leaves torch's choice.
    """

    epochs: int = 0
    batch_size: int = 0
    accumulate: int = 1
    learning_rate: float = 0.004
    final_learning_rate: float = 1e-6
    warmup: float = 0.06
    weight_decay: list[float] = field(default_factory=lambda: [0.04, 0.4])
    gradient_clip: float = 3.0
    freeze_last_layer: float = 0.002
    student_temperature: float = 0.1
    teacher_temperature: list[float] = field(default_factory=list)
    teacher_cooling: float = 0.6
    teacher_momentum: list[float] = field(default_factory=list)
    center_momentum: float = 0.9
    centering: str = "mean"
    koleo: float = 0.0
    compile: bool = False
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0


@dataclass
class DetectorConfig:
    """The score and the bank.

    Attributes:
        score: ``auto`` chooses on development scans; else ``nearest``, ``soft_nearest`` (each also ``_centered``),
            ``mahalanobis``, ``residual``, ``head_logit``, ``head_entropy``, ``head_contrast``, ``combined`` or, where there
            are members or an appearance model, ``ensemble``.
        members: folders of detectors, trained on the same films, whose heads are asked too.
        appearance: learn how films look that are brought to a common frame, and ask that too.
        bank_size: scans that the bank keeps, chosen by k-means; 0 keeps all. What it costs is printed.
        half: round weights and bank to float16 before anything is fitted or calibrated, which halves the folder.
    """

    score: str = "auto"
    members: list[str] = field(default_factory=list)
    appearance: bool = False
    bank_size: int = 0
    half: bool = False


@dataclass
class RunConfig:
    """A whole run: ``medood train CONFIG [key=value ...]``.

    Attributes:
        name: what the detector is called in reports.
        out: the detector's folder; checkpoints, logs and cache lie in it.
    """

    name: str = "detector"
    out: str = "runs/detector"
    data: DataConfig = field(default_factory=DataConfig)
    read: ReadConfig = field(default_factory=ReadConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    negatives: NegativesConfig = field(default_factory=NegativesConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
