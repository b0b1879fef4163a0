"""Every key that this project reads, with PySlowFast's names and PySlowFast's defaults.

``DATA.NUM_FRAMES`` is ``config.data.num_frames``: the same words in lower case. Every key
here is read by some code; the keys of PySlowFast that MViT does not read are in ``legacy.py``.
``docs/config.md`` is written from this file by ``python -m slowfast_mvit.config.document``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from slowfast_mvit.config.setting import addition, operational, operational_addition, setting

BlockStride = tuple[int, int, int, int]  # block, then stride over frames, rows, columns
BlockFactor = tuple[int, float]  # block, then factor


@dataclass(frozen=True)
class Train:
    """Training, and the validation that goes with it."""

    enable: bool = operational(True, "Train.")
    dataset: str = setting(
        "kinetics",
        "Kind of data set, for training and validation: a row of `data/lists/catalog.py`, such as "
        "`kinetics`, `k400`, `ssv2`, `imagenet`, `csv` or `folder` (see data.md).",
        any_case=True,
        names_code=True,
    )
    batch_size: int = setting(
        64, "Videos per node and step; each gives `AUG.NUM_SAMPLE` clips.", minimum=1
    )
    eval_period: int = operational(
        10, "Validate every so many epochs, and after the last.", minimum=1
    )
    checkpoint_period: int = operational(
        10, "Save every so many epochs, and after the last.", minimum=1
    )
    checkpoint_steps: int = operational_addition(
        1000,
        "Save inside an epoch every so many steps too, to `OUTPUT_DIR/mid_epoch`, which keeps the "
        "two most recent; 0: never.",
        minimum=0,
    )
    auto_resume: bool = operational(
        True,
        "Resume from the most recent checkpoint in `OUTPUT_DIR`, if there is one; "
        "`CHECKPOINT_FILE_PATH` is not read then.",
    )
    resume_strict: bool = operational_addition(
        False,
        "Refuse to resume where the numerics have changed since the checkpoint (versions, CPU, "
        "threads, GPU, precision flags, fast paths), which otherwise is a warning.",
    )
    checkpoint_file_path: str = operational("", "Initial checkpoint.")
    checkpoint_inflate: bool = setting(
        False,
        "The initial checkpoint is an image model's: spread each 2-D filter evenly over time.",
    )
    checkpoint_in_init: bool = setting(
        False,
        "The initial checkpoint is an image MViT's: repeat its filters over time, as PySlowFast.",
    )
    checkpoint_epoch_reset: bool = setting(
        False, "Load only the weights of the initial checkpoint, not its epoch and optimizer."
    )
    checkpoint_clear_name_pattern: tuple[str, ...] = setting(
        (), "Texts to remove, once each, from the parameter names of the initial checkpoint."
    )
    checkpoint_new_head: bool = addition(
        False, "Train a new classifier, even if the initial checkpoint has one for as many classes."
    )
    checkpoint_min_filled: float = operational_addition(
        0.9,
        "Least share of the values below the classifier that the initial checkpoint has to fill, "
        "from 0 to 1; with less, training does not start.",
        minimum=0.0,
        maximum=1.0,
    )
    mixed_precision: bool = setting(
        False, "PySlowFast's switch for float16 with a gradient scaler: `PRECISION: fp16`."
    )
    precision: str = addition(
        "fp32",
        "Number format of the forward and backward pass in training.",
        choices=("fp32", "bf16", "fp16"),
    )
    strategy: str = operational_addition(
        "ddp",
        "Parallel training: each process has a whole copy of the model (`ddp`), or a part of the "
        "weights (`fsdp`).",
        choices=("ddp", "fsdp"),
    )
    grad_accum_steps: int = addition(
        1,
        "Batches whose gradients make one step: the effective batch is `BATCH_SIZE` times this, on "
        "each node.",
        minimum=1,
    )
    ema_decay: float = addition(
        0.0,
        "Keep a moving average of the weights with this decay, such as 0.9999; validation and the "
        "best checkpoint are of it. 0: none.",
        minimum=0,
        maximum=1,
    )
    freeze: tuple[str, ...] = addition(
        (),
        "Parameters not to train: patterns of their names, such as `patch_embed.*` or "
        "`blocks.[0-3].*`.",
    )
    max_skipped_steps: int = operational_addition(
        0,
        "Skip at most so many steps of the run whose loss or gradient is not finite; they change "
        "nothing, and one more stops it. Steps that the scaler of float16 skips do not count.",
        minimum=0,
    )
    early_stopping: int = addition(
        0, "Stop after so many validations in a row without a better top-1; 0: never.", minimum=0
    )


@dataclass(frozen=True)
class Test:
    """Multi-view testing."""

    enable: bool = operational(True, "Test.")
    dataset: str = setting(
        "kinetics",
        "Kind of data set for testing, as `TRAIN.DATASET`.",
        any_case=True,
        names_code=True,
    )
    batch_size: int = operational(
        8,
        "Views per node in one forward pass. Each pass has `BATCH_SIZE / NUM_GPUS` (never more "
        "than there are videos), however many processes test, so that scores are the same bits.",
        minimum=1,
    )
    checkpoint_file_path: str = operational(
        "",
        "Weights to test. Empty: the most recent checkpoint in `OUTPUT_DIR`, "
        "else `TRAIN.CHECKPOINT_FILE_PATH`.",
    )
    weights: str = addition(
        "last",
        "Evaluated weights of a run: of the most recent checkpoint (`last`), the moving average in "
        "it (`ema`; also in the one that `CHECKPOINT_FILE_PATH` names), those with the best "
        "validation (`best`), or none, to measure chance or speed (`random`).",
        choices=("last", "ema", "best", "random"),
    )
    num_ensemble_views: int = setting(
        10, "Clips per video, spread over its length; -1 tests 1, 3, 5, 7 and 10.", minimum=-1
    )
    num_spatial_crops: int = setting(
        3, "Crops per clip: 1 in the centre, or 3 along the longer side.", choices=(1, 3)
    )
    num_temporal_clips: tuple[int, ...] = setting(
        (),
        "Test with each of these numbers of clips, in one pass; replaces `NUM_ENSEMBLE_VIEWS`.",
        minimum=1,
    )
    segment_clips: str = addition(
        "same",
        "Several clips of SSv2: the same middle frames in each, as in PySlowFast, "
        "or frames shifted through each part of the video.",
        choices=("same", "shifted"),
    )


@dataclass(frozen=True)
class Aug:
    """Augmentation of single clips in training."""

    enable: bool = setting(False, "Use RandAugment and random erasing.")
    num_sample: int = setting(
        1, "Repeated augmentation: clips made from each video, of the same frames.", minimum=1
    )
    aa_type: str = setting(
        "rand-m9-mstd0.5-inc1",
        "RandAugment: m magnitude (0 to 10), n operations, mstd spread of the magnitude, "
        "inc1 operations that grow with it, w0 weighted choice. Empty: none.",
    )
    interpolation: str = setting(
        "bicubic",
        "Resampling of RandAugment when it rotates, shears or shifts.",
        choices=("bicubic", "bilinear"),
    )
    aa_method: str = addition(
        "exact",
        "Order of RandAugment and the crop: PySlowFast's (`exact`), the crop first as in timm "
        "(`crop_first`), or both in one sampling (`fused`; `docs/augmentation.md`). Images: unless "
        "set, the crop first.",
        choices=("exact", "crop_first", "fused"),
    )
    color_jitter: float | None = setting(
        0.4,
        "Spread of brightness, contrast and saturation where `AA_TYPE` is empty; 0 or None: none.",
        minimum=0,
    )
    re_prob: float = setting(0.25, "Chance that a clip has a box erased.", minimum=0, maximum=1)
    re_mode: str = setting(
        "pixel",
        "The erased box holds noise for each pixel, one random colour, or zeros.",
        choices=("pixel", "rand", "const"),
    )
    re_count: int = setting(1, "Boxes erased at most.", minimum=1)


@dataclass(frozen=True)
class Mixup:
    """Mixing of the clips of a batch, and label smoothing."""

    enable: bool = setting(False, "Use mixup, cutmix and label smoothing.")
    alpha: float = setting(0.8, "Beta parameter of mixup; 0 turns mixup off.", minimum=0)
    cutmix_alpha: float = setting(1.0, "Beta parameter of cutmix; 0 turns cutmix off.", minimum=0)
    prob: float = setting(
        1.0, "Chance that a batch is mixed; labels are smoothed anyway.", minimum=0, maximum=1
    )
    switch_prob: float = setting(0.5, "Chance of cutmix where both are on.", minimum=0, maximum=1)
    label_smooth_value: float = setting(
        0.1, "Share of each label that is spread over all classes.", minimum=0, maximum=1
    )


@dataclass(frozen=True)
class Model:
    """The model as a whole, its head and its loss."""

    arch: str = setting(
        "mvit",
        "Kind of model. PySlowFast's default is slowfast.",
        choices=("mvit",),
        out_of_scope=("slowfast", "slow", "2d", "c2d", "i3d", "x3d", "maskmvit"),
    )
    model_name: str = setting(
        "MViT",
        "Name of the model. PySlowFast's default is SlowFast.",
        choices=("MViT",),
        out_of_scope=("SlowFast", "ResNet", "X3D", "PTVMViT", "MaskMViT", "ContrastiveModel"),
    )
    num_classes: int = setting(400, "Classes, counted from label 0.", minimum=1, maximum=1_000_000)
    loss_func: str = setting(
        "cross_entropy",
        "Loss; soft_cross_entropy takes the mixed and smoothed labels of `MIXUP`.",
        choices=("cross_entropy", "soft_cross_entropy"),
        out_of_scope=("bce", "bce_logit", "contrastive_loss", "mse", "multi_mse"),
    )
    dropout_rate: float = setting(0.5, "Dropout before the classifier.", minimum=0, maximum=1)
    act_checkpoint: bool | str = operational(
        False,
        "Activation checkpointing: nothing, all of each block except its linear layers "
        "(`selective`), or all of each block is computed again in the backward pass. Less memory, "
        "more time, equal numbers.",
        choices=(False, True, "selective"),
    )
    compile: bool = operational_addition(
        False,
        "Compile the model for training with torch.compile, on GPUs (the gain has not been "
        "measured). On a CPU it gains nothing and only gives a warning. Not with `TRAIN.STRATEGY "
        "fsdp`.",
    )
    detach_final_fc: bool = setting(False, "Train the classifier only, on fixed features.")


@dataclass(frozen=True)
class Mvit:
    """The layers of MViT. Blocks are counted from 0."""

    variant: str = addition(
        "",
        "Size. Fills those of `EMBED_DIM`, `NUM_HEADS`, `DEPTH`, `DIM_MUL`, `HEAD_MUL`, "
        "`POOL_Q_STRIDE`, `POOL_KV_STRIDE_ADAPTIVE` and `POOL_KVQ_KERNEL` that are not set.",
        choices=("", "T", "S", "B", "L", "H"),
    )
    patch_2d: bool = setting(False, "Cut single images, not clips, into patches.")
    patch_kernel: tuple[int, ...] = setting(
        (3, 7, 7),
        "Patch convolution over frames, rows, columns; rows, columns if `PATCH_2D`.",
        minimum=1,
    )
    patch_stride: tuple[int, ...] = setting((2, 4, 4), "Its stride.", minimum=1)
    patch_padding: tuple[int, ...] = setting(
        (2, 4, 4), "Its padding; every published model has 1, 3, 3.", minimum=0
    )
    embed_dim: int = setting(
        96, "Width of the first block.", minimum=1, maximum=16384, from_variant=True
    )
    num_heads: int = setting(
        1, "Heads of the first block.", minimum=1, maximum=1024, from_variant=True
    )
    depth: int = setting(16, "Number of blocks.", minimum=1, maximum=1000, from_variant=True)
    mlp_ratio: float = setting(
        4.0, "Width inside a block's MLP over the block's width.", above=0, maximum=64
    )
    qkv_bias: bool = setting(True, "Queries, keys and values have a bias.")
    droppath_rate: float = setting(
        0.1, "Stochastic depth of the last block; grows evenly from 0.", minimum=0, maximum=1
    )
    norm: str = setting("layernorm", "Normalisation.", choices=("layernorm",))
    norm_stem: bool = setting(False, "Normalise the patches before the first block.")
    dim_mul: tuple[BlockFactor, ...] = setting(
        (), "[block, factor] where the width grows.", minimum=0, from_variant=True
    )
    head_mul: tuple[BlockFactor, ...] = setting(
        (), "[block, factor] where the number of heads grows.", minimum=0, from_variant=True
    )
    dim_mul_in_att: bool = setting(
        False, "The width grows in the attention of that block (MViTv2), not in the MLP before it."
    )
    pool_q_stride: tuple[BlockStride, ...] = setting(
        (),
        "[block, t, h, w] by which queries are pooled; a block not listed does not pool them.",
        minimum=0,
        from_variant=True,
    )
    pool_kv_stride: tuple[BlockStride, ...] = setting(
        (),
        "[block, t, h, w] by which keys and values are pooled; "
        "not read where `POOL_KV_STRIDE_ADAPTIVE` is set.",
        minimum=0,
        from_variant=True,
    )
    pool_kv_stride_adaptive: tuple[int, int, int] | None = setting(
        None,
        "t, h, w by which the first block pools keys and values; shrinks as queries are pooled.",
        minimum=1,
        from_variant=True,
    )
    pool_kvq_kernel: tuple[int, int, int] | None = setting(
        None,
        "Pooling convolution over t, h, w, odd. None: stride + 1 where the stride is above 1.",
        minimum=1,
        from_variant=True,
    )
    residual_pooling: bool = setting(False, "Add the pooled query to the attention's output.")
    cls_embed_on: bool = setting(True, "Prepend a class token.")
    use_mean_pooling: bool = setting(False, "Classify the mean over patches, not the class token.")
    use_abs_pos: bool = setting(True, "Learn a position for each patch.")
    sep_pos_embed: bool = setting(False, "Learn it as a sum, one table for space and one for time.")
    rel_pos_spatial: bool = setting(False, "Relative positions over rows and columns.")
    rel_pos_temporal: bool = setting(False, "Relative positions over frames.")
    rel_pos_zero_init: bool = setting(False, "Start the tables of relative positions at 0.")
    dropout_rate: float = setting(
        0.0, "Dropout after patches, attention and MLP.", minimum=0, maximum=1
    )
    head_init_scale: float = setting(1.0, "Factor on the first weights of the classifier.")
    zero_decay_pos_cls: bool = setting(
        True, "No weight decay on positions and class token; every published file turns it off."
    )


@dataclass(frozen=True)
class Data:
    """Lists, frames and crops."""

    path_to_data_dir: str = operational("", "Folder of the lists; may be remote.")
    path_prefix: str = operational("", "Put before each path of a list.")
    path_label_separator: str = operational(" ", "Between path and label in a list.")
    class_names_path: str = operational_addition("", "File with the names of the classes.")
    max_failed_fraction: float = operational_addition(
        0.01,
        "Training stops when a larger share of the videos cannot be read.",
        minimum=0,
        maximum=1,
    )
    decoding_backend: str = setting(
        "pyav",
        "Video decoder: `pyav`, `torchcodec`, `torchcodec_cuda`, `decord`, `auto` "
        "(the first that works), or `package.module:name`.",
        names_code=True,
    )
    num_frames: int = setting(8, "T, frames of a clip.", minimum=1, maximum=4096)
    sampling_rate: int = setting(
        8,
        "tau, the step between them, in frames at `TARGET_FPS`; not read for SSv2.",
        minimum=1,
        maximum=4096,
    )
    target_fps: int = setting(30, "Frames per second in which tau is counted.", minimum=1)
    train_jitter_fps: float = setting(
        0.0, "In training `TARGET_FPS` grows by a draw from 0 to this.", minimum=0
    )
    use_offset_sampling: bool = setting(False, "Test clips reach both ends of the video.")
    train_jitter_scales: tuple[int, int] = setting(
        (256, 320),
        "Short side of a training clip before its crop, in pixels, from and to; "
        "the first is also that of a single test crop. Not read for images.",
        minimum=1,
    )
    train_jitter_scales_relative: tuple[float, ...] = setting(
        (), "Random resized crop: its area as a share of the frame, from and to.", above=0
    )
    train_jitter_aspect_relative: tuple[float, ...] = setting(
        (), "Random resized crop: its width over height, from and to.", above=0
    )
    inv_uniform_sample: bool = setting(False, "Draw the short side evenly in 1 / pixels.")
    in_val_crop_ratio: float = setting(
        0.875,
        "Images (`MVIT.PATCH_2D`): side of a validation or test crop as a share of the short side; "
        "1: the short side; 0: the whole image, squeezed to a square (full crop).",
        minimum=0,
        maximum=1,
    )
    train_crop_size: int = setting(
        224, "Side of a training crop, in pixels.", minimum=1, maximum=4096
    )
    test_crop_size: int = setting(256, "Side of a test crop, in pixels.", minimum=1, maximum=4096)
    random_flip: bool = setting(True, "Flip half of the training clips horizontally.")
    mean: tuple[float, float, float] = setting(
        (0.45, 0.45, 0.45), "Mean of each channel, subtracted; pixels are 0 to 1."
    )
    std: tuple[float, float, float] = setting(
        (0.225, 0.225, 0.225), "Standard deviation by which each channel is divided.", above=0
    )
    reverse_input_channel: bool = setting(
        False, "Frames stay RGB, but take mean and std in reverse order, as in PySlowFast's SSv2."
    )
    input_channel_num: tuple[int, ...] = setting(
        (3, 3), "Channels of a frame; only the first number is read.", choices=(3,)
    )
    ensemble_method: str = setting(
        "sum", "Ensembling of the views of a video.", choices=("sum", "max")
    )


@dataclass(frozen=True)
class Solver:
    """Optimizer, learning rate and weight decay."""

    optimizing_method: str = setting("sgd", "Optimizer.", choices=("sgd", "adam", "adamw"))
    base_lr: float = setting(0.1, "Highest learning rate.", above=0)
    lr_policy: str = setting(
        "cosine", "Learning rate schedule.", choices=("cosine", "steps_with_relative_lrs")
    )
    cosine_end_lr: float = setting(0.0, "Cosine: learning rate at the end.", minimum=0)
    cosine_after_warmup: bool = setting(False, "Cosine: starts where the warm-up ends.")
    steps: tuple[int, ...] = setting((), "Steps: epochs at which each begins; first 0.", minimum=0)
    lrs: tuple[float, ...] = setting((), "Steps: factor on `BASE_LR` in each.", minimum=0)
    max_epoch: int = setting(300, "Epochs.", minimum=1)
    warmup_epochs: float = setting(0.0, "Epochs of linear warm-up.", minimum=0)
    warmup_start_lr: float = setting(0.01, "Learning rate at its start.", minimum=0)
    base_lr_scale_num_shards: bool = setting(
        False, "Multiply the three learning rates by the number of nodes."
    )
    momentum: float = setting(0.9, "SGD: momentum.", minimum=0)
    dampening: float = setting(0.0, "SGD: dampening.")
    nesterov: bool = setting(True, "SGD: Nesterov momentum.")
    betas: tuple[float, float] = setting((0.9, 0.999), "Adam: both betas.", minimum=0, maximum=1)
    weight_decay: float = setting(1e-4, "Weight decay.", minimum=0)
    zero_wd_1d_param: bool = setting(False, "None of it on biases and other 1-D parameters.")
    layer_decay: float = setting(
        1.0, "Factor on the learning rate from each block to the one before.", above=0, maximum=1
    )
    clip_grad_val: float | None = setting(None, "Clip each gradient to this size.", above=0)
    clip_grad_l2norm: float | None = setting(
        None, "Clip the norm of all gradients to this; not read with `CLIP_GRAD_VAL`.", above=0
    )


@dataclass(frozen=True)
class DataLoader:
    """Worker processes that read videos."""

    num_workers: int = operational(8, "Workers per device.", minimum=0)
    pin_memory: bool = operational(True, "Copy batches to a GPU from page-locked memory.")
    start_method: str = operational_addition(
        "",
        "Start method of the workers; empty for `forkserver`. `fork` is not safe where this "
        "process has decoded before.",
        choices=("", "forkserver", "fork", "spawn"),
    )
    timeout_s: float = operational_addition(
        300.0,
        "Timeout of a worker for one video, in seconds; then the worker is ended, and a video that "
        "times out again alone counts as unreadable.",
        above=0,
    )


@dataclass(frozen=True)
class Tensorboard:
    """Curves for TensorBoard."""

    enable: bool = operational(False, "Write them; needs the extra `tensorboard`.")
    log_dir: str = operational("", "Folder for them, below `OUTPUT_DIR`; empty: `tensorboard`.")


@dataclass(frozen=True)
class Wandb:
    """Curves for Weights & Biases."""

    enable: bool = operational_addition(False, "Send them; needs the extra `wandb`.")
    project: str = operational_addition("slowfast_mvit", "Project.")


@dataclass(frozen=True)
class Settings:
    """Keys without a section, and the sections."""

    num_gpus: int = operational(1, "Devices per node; 0 for the CPU.", minimum=0)
    num_shards: int = operational(1, "Nodes.", minimum=1)
    shard_id: int = operational(0, "Number of this node, from 0.", minimum=0)
    dist_timeout_s: float = operational_addition(
        600.0,
        "Time limit in seconds without progress of a process that others wait for; then the run "
        "ends with its rank, host and step. At least `DATA_LOADER.TIMEOUT_S` + 60 counts.",
        above=0,
    )
    output_dir: str = operational(".", "Folder for all output, local or remote through iopath.")
    path_handlers: tuple[str, ...] = operational_addition(
        (),
        "`package.module:name` of iopath path handlers, for remote lists, weights and outputs.",
        names_code=True,
    )
    rng_seed: int = setting(1, "Seed of everything random.", minimum=0)
    log_period: int = operational(10, "Steps between lines of the log.", minimum=1)
    log_model_info: bool = operational(
        True,
        "Log the parameters of the model, their memory, and its FLOPs (multiply-adds of a view).",
    )
    train: Train = field(default_factory=Train)
    test: Test = field(default_factory=Test)
    aug: Aug = field(default_factory=Aug)
    mixup: Mixup = field(default_factory=Mixup)
    model: Model = field(default_factory=Model)
    mvit: Mvit = field(default_factory=Mvit)
    data: Data = field(default_factory=Data)
    solver: Solver = field(default_factory=Solver)
    data_loader: DataLoader = field(default_factory=DataLoader)
    tensorboard: Tensorboard = field(default_factory=Tensorboard)
    wandb: Wandb = field(default_factory=Wandb)
