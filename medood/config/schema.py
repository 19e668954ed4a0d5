"""The typed schema of a run: one dataclass per group of keys. ``--help`` prints the ``Attributes`` sections."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: The domain whose scans this project began with.
CHEST = "frontal chest radiograph"


@dataclass
class ReadConfig:
    """How files are read.

    Attributes:
        frames: which frames, pages or slices become scans: ``all``, ``first``, ``middle`` or ``every N``.
        plane: plane in which NIfTI volumes are sliced: ``axial``, ``coronal`` or ``sagittal``.
        select: which DICOM objects to take, such as ``Modality in (CR, DX) and BodyPartExamined == CHEST``; empty takes all.
        max_pixels: largest image, in pixels.
        max_bytes: largest file or archive member, in bytes.
        max_members: largest number of members of one archive.
        max_unpacked: largest unpacked size of one archive, in bytes.
        max_ratio: largest ratio of unpacked to packed size of an archive or member; applies above 64 MiB.
        max_frames: largest number of scans (frames, pages or slices) from one file.
        max_decoder_memory: largest amount of memory for unpacking xz or Zstandard, in bytes.
        decode: how images are decoded for scoring. ``scored``: grey JPEG 2000 and JPEG at the lowest resolution that has
            twice the network's input in each direction. ``full``: whole, as training and reports always do.
        text: look for text that is burnt into the images of a run, which are then decoded whole; needs the extra ``text``.
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
    decode: str = "scored"
    text: bool = False


@dataclass
class PreprocessConfig:
    """How a scan becomes the network's input; saved with the detector.

    Attributes:
        size: side of the network's input in pixels.
        fit: ``squash`` to a square, or ``letterbox`` (black bars, aspect ratio kept).
        crops: centre crops to score, as fractions of each side; features and head outputs of several are averaged.
            A network trained on crops is most confident on a crop.
        equalize: equalise the histogram, which removes the device's grey-scale curve.
        channels: 1 for grey values, or 3 for red, green and blue; a grey image then has three equal channels.
    """

    size: int = 224
    fit: str = "squash"
    crops: list[float] = field(default_factory=lambda: [1.0])
    equalize: bool = False
    channels: int = 1


@dataclass
class DataConfig:
    """The in-distribution scans.

    Attributes:
        domain: what the scans are, in words. Only ``frontal chest radiograph`` has a finding of its own for scans that are
            something else; elsewhere it is ``another_kind_of_image``.
        root: folder, zip or file of in-distribution scans.
        calibration_root: scans for calibration; empty holds out ``calibration_fraction`` of ``root``.
        calibration_fraction: fraction of ``root`` held out for calibration, split by patient where PatientID is known.
        development_fraction: fraction of the rest held out to choose and scale the score, split the same way.
        split_seed: seed of both splits; empty uses ``train.seed``. Ensemble members with different seeds need the same one.
        limit: use at most this many scans; 0 uses all.
        cache: folder for decoded images; empty uses ``OUT/cache``.
    """

    domain: str = CHEST
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
        drop_path: stochastic depth rate of the student; the teacher uses none.
        hidden_dim: width of the head's hidden layers.
        bottleneck_dim: width before the last layer.
        out_dim: number of prototypes; 0 derives it from the data.
        weights: a safetensors file of initial weights: a backbone's, or a detector's ``network.safetensors`` including
            its head. Empty initialises at random.
        pretrained: start from timm's published weights; needs internet access, or the file in timm's cache.
        size: side of the network's input in pixels if it is smaller than the detector's, which other parts of the score see;
            0 is ``preprocess.size``.
        frozen: take the network in ``weights`` as it is, without self-distillation.
        rotation_head: train a second head to predict the quarter turns of large views, as in the paper's variant, for the
            score ``rotation``; needs the transformation ``rot`` among the negatives.
    """

    backbone: str = "vit_small_patch16_224"
    arguments: dict[str, Any] = field(default_factory=dict)
    drop_path: float = 0.1
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    out_dim: int = 0
    weights: str = ""
    pretrained: bool = False
    size: int = 0
    frozen: bool = False
    rotation_head: bool = False


@dataclass
class ViewsConfig:
    """Positive views: augmentations to which the features should be invariant.

    Attributes:
        source_size: side of the cached images that crops are taken from.
        global_count: large crops per image (teacher and student); at least 2.
        global_scale: range of a large crop's area, as a fraction of the image's.
        local_count: small crops per image (student only).
        local_size: side of the small crops in pixels.
        local_scale: range of a small crop's area, as a fraction of the image's.
        aspect: largest ratio of a crop's sides (1 is square).
        mirror: probability that a view is mirrored. Above 0, a mirrored scan is in distribution, as where left and right
            are mixed: mirroring is then never a fault, and does not count in the choice of the score.
        rotation: largest rotation in degrees, either way.
        brightness: largest shift of the grey values, either way.
        contrast: largest relative change of contrast, either way.
        gamma: largest relative change of gamma, either way.
        blur: probability of a Gaussian blur.
        blur_sigma: largest sigma of the blur, in pixels of the view.
        saturation: largest relative change of the colours' saturation, either way; for ``preprocess.channels=3``.
        hue: largest turn of the hue, either way, as a fraction of the circle; likewise.
        equalize: probability that a view's histogram is equalised.
        detail: largest relative change, either way, of local contrast and of the low-frequency brightness around it, which
            imitates another device's processing.
    """

    source_size: int = 256
    global_count: int = 2
    global_scale: list[float] = field(default_factory=lambda: [0.4, 1.0])
    local_count: int = 8
    local_size: int = 96
    local_scale: list[float] = field(default_factory=lambda: [0.15, 0.4])
    aspect: float = 1.15
    mirror: float = 0.0
    rotation: float = 5.0
    brightness: float = 0.1
    contrast: float = 0.2
    gamma: float = 0.2
    blur: float = 0.3
    blur_sigma: float = 1.0
    saturation: float = 0.0
    hue: float = 0.0
    equalize: float = 0.0
    detail: float = 0.0


@dataclass
class NegativesConfig:
    """Negative views: shifted images that stand for data outside the domain.

    Attributes:
        mixture: weight of each shifting transformation; weights need not sum to 1. Empty trains without negatives.
        sources: images to shift: ``in_distribution``, ``auxiliary`` or ``both``; both sources have equal weight.
        auxiliary: folders or archives of auxiliary images, which are first resampled to the in-distribution resolution.
        auxiliary_mixture: the mixture for auxiliary images, which may include ``image_as_is``; empty uses ``mixture``.
        count: negative views per image and source.
        local_count: small negative views per image and source, cropped as ``views`` states for small crops and then shifted.
        scale: range of a negative view's area, as a fraction of the image's, before the shifting transformation.
        weight: weight of the negative term of the loss.
    """

    mixture: dict[str, float] = field(default_factory=dict)
    sources: str = "in_distribution"
    auxiliary: list[str] = field(default_factory=list)
    auxiliary_mixture: dict[str, float] = field(default_factory=dict)
    count: int = 1
    local_count: int = 0
    scale: list[float] = field(default_factory=lambda: [0.6, 1.0])
    weight: float = 1.0


@dataclass
class TrainConfig:
    """Self-distillation.

    Attributes:
        epochs: passes over the training images; 0 derives it from the data.
        batch_size: images per step over all processes; 0 derives it from the data.
        accumulate: number of parts in which the student processes a batch, to save memory; the gradient is unchanged.
        learning_rate: peak learning rate for a batch of 256; scaled by ``batch_size / 256``.
        final_learning_rate: learning rate at the end of the cosine schedule.
        warmup: fraction of the steps over which the learning rate rises from 0.
        weight_decay: first and last value of its cosine schedule.
        gradient_clip: largest norm of the gradient.
        freeze_last_layer: fraction of the steps during which the head's last layer is frozen.
        student_temperature: temperature of the student's softmax.
        teacher_temperature: first and last value of the teacher's temperature; empty derives it, and
            ``center_momentum`` as well, from the data.
        teacher_cooling: fraction of the steps over which the teacher's temperature falls linearly.
        teacher_momentum: first and last value of the EMA momentum's cosine schedule; empty derives it from the data.
        center_momentum: momentum of the centre of the teacher's outputs.
        centering: ``mean`` (the paper's) or ``sinkhorn`` (Sinkhorn-Knopp over the batch, 3 rounds).
        koleo: weight of the KoLeo term, which spreads the features; 0 disables it.
        compile: ``torch.compile`` the student and the teacher.
        seed: seed of all random numbers.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto`` (bf16 on a GPU that has it), ``32-true`` or ``bf16-mixed``, which on CPUs with AMX is faster too.
        threads: CPU threads; 0 keeps PyTorch's default.
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
class LesionsConfig:
    """A second network that finds synthetic lesions place by place in the registered radiograph; the score ``lesions``.

    It starts from the trained backbone, which must be a ConvNeXt, and needs ``detector.appearance``, which registers.

    Attributes:
        epochs: passes over the training images; 0 trains no such network, or takes that in ``weights`` as it is.
        weights: a safetensors file to start from, of a lesion network or of a detector with one; empty starts from the
            trained backbone.
        size: side of the registered frame in pixels.
        mixture: weight of each shifting transformation that is planted; weights need not sum to 1.
        healthy: share of the radiographs in which nothing is planted.
        faults: weight of each shifting transformation of whole radiographs, which the network names; empty for none.
        faulty: share of the radiographs that go through one of them; in these nothing is planted.
        batch_size: images per step.
        learning_rate: peak learning rate.
        momentum: EMA momentum of the weights that are kept.
    """

    epochs: int = 0
    weights: str = ""
    size: int = 192
    mixture: dict[str, float] = field(default_factory=dict)
    healthy: float = 0.45
    faults: dict[str, float] = field(default_factory=dict)
    faulty: float = 0.25
    batch_size: int = 48
    learning_rate: float = 0.0006
    momentum: float = 0.998


@dataclass
class DetectorConfig:
    """The score and the feature bank.

    Attributes:
        score: ``auto`` chooses on development scans; else ``nearest``, ``soft_nearest`` (each also ``_centered``),
            ``mahalanobis``, ``residual``, ``head_logit``, ``head_entropy``, ``head_contrast``, ``combined`` or, with
            members or an appearance model, ``ensemble``, with a lesion network, ``lesions``, or, with a rotation head,
            ``rotation``.
        members: folders of further ensemble members: detectors trained on the same radiographs, whose heads also score.
        appearance: fit an appearance model to radiographs aligned to a common frame, and score with it too.
        bank_size: number of scans kept in the bank, chosen by k-means; 0 keeps all. The cost is printed.
        half: round weights and bank to float16 before fitting and calibration, which halves the folder's size.
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
        name: the detector's name in reports.
        out: the detector's folder, which also holds checkpoints, logs and cache.
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
    lesions: LesionsConfig = field(default_factory=LesionsConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)

    @property
    def network_size(self) -> int:
        """Side of the network's input in pixels."""
        return self.model.size or self.preprocess.size
