"""Keys of PySlowFast or of earlier versions that this project does not read, each with the reason.

Three kinds: ``REFUSED`` keys give an error, since a run without them would train or test something
else; ``IGNORED`` keys give a warning, and a key may be in both, an error at some values and a
warning at others; ``RENAMED`` values are replaced, with a line in the log. The values listed with a
key, such as its default in PySlowFast, give neither. A warning means that PySlowFast would do
something else: ``WITHOUT_EFFECT`` are the reasons of keys that change nothing there either, for
an MViT config without refused keys; they give a line at INFO.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slowfast_mvit.config.coerce import literal


@dataclass(frozen=True)
class Unread:
    """The reason why a key is not read.

    Attributes:
        reason: of an ignored key, a sentence that begins with the key; of a refused key, the
            feature that is outside this project's scope.
        silent: values that give no message.
    """

    reason: str
    silent: tuple[Any, ...] = ()

    def is_silent(self, value: Any) -> bool:
        """Return whether this value of the key gives no message."""
        return literal(value) in self.silent


OTHER_MODELS = "belongs to other models of PySlowFast; MViT does not read it"
NO_BATCH_NORM = "MViT has no batch normalisation"
DETECTION = "belongs to detection, which is not enabled"
PRETRAINING = "belongs to self-supervised pre-training"
NEVER_READ = "PySlowFast does not read it either"
LONG_LISTS = "the whole list is read; it takes little memory"
MULTIGRID = "belongs to multigrid training, which is not enabled"
TENSORBOARD = "is not written; OUTPUT_DIR/report.html shows the classes"
DRAWINGS = "belongs to drawings for TensorBoard, which are not made"
BENCHMARK = "is not read; see benchmarks/"
PREFETCH = "is unknown to PySlowFast too; DATA_LOADER.NUM_WORKERS sets the number of workers"
DEMO = "is not read; `slowfast-mvit predict` scores a single video"
REVERSIBLE = "belongs to reversible MViT, which is not enabled"

WITHOUT_EFFECT = {
    *(OTHER_MODELS, NO_BATCH_NORM, DETECTION, PRETRAINING, NEVER_READ, MULTIGRID),
    *(DRAWINGS, BENCHMARK, PREFETCH, DEMO, REVERSIBLE),
}

# Keys that earlier versions of this project had.
RETIRED: dict[str, Unread] = {
    "TRAIN.SHARDED_CHECKPOINTS": Unread(
        "is retired, each checkpoint is one file; delete the key", (False,)
    ),
}

# Sections of which these keys are not read: reason -> a section and its keys on each line.
_SECTIONS = {
    BENCHMARK: """
        BENCHMARK NUM_EPOCHS LOG_PERIOD SHUFFLE""",
    DETECTION: """
        AVA ANNOTATION_DIR BGR DETECTION_SCORE_THRESH EXCLUSION_FILE FRAME_DIR FRAME_LIST_DIR
        AVA FULL_TEST_ON_VAL GROUNDTRUTH_FILE IMG_PROC_BACKEND LABEL_MAP_FILE TEST_FORCE_FLIP
        AVA TEST_LISTS TEST_PREDICT_BOX_LISTS TRAIN_GT_BOX_LISTS TRAIN_LISTS TRAIN_PCA_JITTER_ONLY
        AVA TRAIN_PREDICT_BOX_LISTS TRAIN_USE_COLOR_AUGMENTATION
        DETECTION ALIGNED ROI_XFORM_RESOLUTION SPATIAL_SCALE_FACTOR""",
    NO_BATCH_NORM: """
        BN GLOBAL_SYNC NORM_TYPE NUM_BATCHES_PRECISE NUM_SPLITS NUM_SYNC_DEVICES USE_PRECISE_STATS
        BN WEIGHT_DECAY
        MODEL FROZEN_BN""",
    PRETRAINING: """
        CONTRASTIVE BN_MLP BN_SYNC_MLP DELTA_CLIPS_MAX DELTA_CLIPS_MIN DIM INTERP_MEMORY KNN_ON
        CONTRASTIVE LENGTH LOCAL_SHUFFLE_BN MEM_TYPE MLP_DIM MOCO_MULTI_VIEW_QUEUE MOMENTUM
        CONTRASTIVE MOMENTUM_ANNEALING NUM_CLASSES_DOWNSTREAM NUM_MLP_LAYERS PREDICTOR_DEPTHS
        CONTRASTIVE QUEUE_LEN SEQUENTIAL SIMCLR_DIST_ON SWAV_QEUE_LEN T TYPE
        MASK DECODER_DEPTH DECODER_EMBED_DIM DECODER_SEP_POS_EMBED DEC_KV_KERNEL DEC_KV_STRIDE
        MASK HEAD_TYPE MAE_ON MAE_RND_MASK NORM_PRED_PIXEL PER_FRAME_MASKING PRED_HOG PRETRAIN_DEPTH
        MASK SCALE_INIT_BY_DEPTH TIME_STRIDE_LOSS
        AUG MASK_TUBE MASK_FRAMES MASK_WINDOW_SIZE MASK_RATIO MAX_MASK_PATCHES_PER_BLOCK
        DATA SSL_COLOR_BRI_CON_SAT SSL_COLOR_HUE SSL_BLUR_SIGMA_MIN SSL_BLUR_SIGMA_MAX""",
    NEVER_READ: """
        AUG RE_SPLIT
        DATA DECODING_SHORT_SIZE IN22K_TRAINVAL
        MVIT LAYER_SCALE_INIT_VALUE
        SOLVER STEP_SIZE WARMUP_FACTOR""",
    PREFETCH: """
        PREFETCH NUM_LOADERS""",
    DEMO: """
        DEMO BUFFER_SIZE CLIP_VIS_SIZE COMMON_CLASS_NAMES COMMON_CLASS_THRES DETECTRON2_CFG
        DEMO DETECTRON2_THRESH DETECTRON2_WEIGHTS DISPLAY_HEIGHT DISPLAY_WIDTH FPS GT_BOXES
        DEMO INPUT_FORMAT INPUT_VIDEO LABEL_FILE_PATH NUM_CLIPS_SKIP NUM_VIS_INSTANCES OUTPUT_FILE
        DEMO OUTPUT_FPS PREDS_BOXES SLOWMO STARTING_SECOND THREAD_ENABLE UNCOMMON_CLASS_THRES
        DEMO VIS_MODE WEBCAM""",
    MULTIGRID: """
        MULTIGRID BN_BASE_SIZE DEFAULT_B DEFAULT_S DEFAULT_T EPOCH_FACTOR EVAL_FREQ
        MULTIGRID LONG_CYCLE_FACTORS LONG_CYCLE_SAMPLING_RATE SHORT_CYCLE_FACTORS
        SOLVER GAMMA""",
    REVERSIBLE: """
        MVIT.REV RESPATH_FUSE BUFFER_LAYERS RES_PATH PRE_Q_FUSION""",
    OTHER_MODELS: """
        NONLOCAL GROUP INSTANTIATION LOCATION POOL
        RESNET DEPTH INPLACE_RELU NUM_BLOCK_TEMP_KERNEL NUM_GROUPS SPATIAL_DILATIONS SPATIAL_STRIDES
        RESNET STRIDE_1X1 TRANS_FUNC WIDTH_PER_GROUP ZERO_INIT_FINAL_BN ZERO_INIT_FINAL_CONV
        SLOWFAST ALPHA BETA_INV FUSION_CONV_CHANNEL_RATIO FUSION_KERNEL_SZ
        X3D BN_LIN5 BOTTLENECK_FACTOR CHANNELWISE_3x3x3 DEPTH_FACTOR DIM_C1 DIM_C5 SCALE_RES2
        X3D WIDTH_FACTOR
        MODEL SINGLE_PATHWAY_ARCH MULTI_PATHWAY_ARCH DROPCONNECT_RATE FC_INIT_STD
        DATA TRAIN_PCA_EIGVAL TRAIN_PCA_EIGVEC""",
    DRAWINGS: """
        TENSORBOARD CATEGORIES_PATH CLASS_NAMES_PATH CONFUSION_MATRIX.FIGSIZE
        TENSORBOARD CONFUSION_MATRIX.SUBSET_PATH HISTOGRAM.FIGSIZE HISTOGRAM.SUBSET_PATH
        TENSORBOARD HISTOGRAM.TOPK MODEL_VIS.ACTIVATIONS MODEL_VIS.COLORMAP
        TENSORBOARD MODEL_VIS.GRAD_CAM.COLORMAP MODEL_VIS.GRAD_CAM.ENABLE
        TENSORBOARD MODEL_VIS.GRAD_CAM.LAYER_LIST MODEL_VIS.GRAD_CAM.USE_TRUE_LABEL
        TENSORBOARD MODEL_VIS.INPUT_VIDEO MODEL_VIS.LAYER_LIST MODEL_VIS.MODEL_WEIGHTS
        TENSORBOARD MODEL_VIS.TOPK_PREDS PREDICTIONS_PATH WRONG_PRED_VIS.SUBSET_PATH
        TENSORBOARD WRONG_PRED_VIS.TAG""",
}

IGNORED: dict[str, Unread] = {
    **RETIRED,
    **{
        f"{section}.{name}": Unread(reason)
        for reason, lines in _SECTIONS.items()
        for section, *names in map(str.split, lines.strip().splitlines())
        for name in names
    },
    **{
        f"TENSORBOARD.{drawing}.ENABLE": Unread(TENSORBOARD, (False,))
        for drawing in ("CONFUSION_MATRIX", "HISTOGRAM", "MODEL_VIS", "WRONG_PRED_VIS")
    },
    "TASK": Unread("is not read; checkpoints have no prefix to their names", ("", None)),
    "DIST_BACKEND": Unread("is not read; NCCL connects GPUs and Gloo CPUs", ("nccl",)),
    "TRAIN.KILL_LOSS_EXPLOSION_FACTOR": Unread(
        "is not read; a run stops when its loss is not a finite number", (0.0,)
    ),
    "TEST.SAVE_RESULTS_PATH": Unread(
        "is not read; scores are always written, to OUTPUT_DIR/test_scores.npz", ("", None)
    ),
    "MODEL.HEAD_ACT": Unread(
        "is not read; views are ensembled as softmax probabilities", ("softmax",)
    ),
    "MODEL.FP16_ALLREDUCE": Unread(
        "is not read; gradients are reduced in full precision", (False,)
    ),
    "DATA.PATH_TO_PRELOAD_IMDB": Unread("is not read; images are listed by folder", ("", None)),
    "DATA.LOADER_CHUNK_SIZE": Unread(LONG_LISTS, (0,)),
    "DATA.LOADER_CHUNK_OVERALL_SIZE": Unread(LONG_LISTS, (0,)),
    "DATA.SKIP_ROWS": Unread(LONG_LISTS, (0,)),
    "DATA_LOADER.ENABLE_MULTI_THREAD_DECODE": Unread(
        "is not read; each worker decodes on one thread", (False,)
    ),
}

REFUSED: dict[str, Unread] = {
    "TASK": Unread("self-supervised pre-training", ("", None, "ssl_eval")),
    "TRAIN.CHECKPOINT_TYPE": Unread("reading Caffe2 checkpoints", ("pytorch",)),
    "TEST.CHECKPOINT_TYPE": Unread("reading Caffe2 checkpoints", ("pytorch",)),
    "AUG.GEN_MASK_LOADER": Unread("self-supervised pre-training", (False,)),
    "MASK.ENABLE": Unread("self-supervised pre-training", (False,)),
    "VIS_MASK.ENABLE": Unread("self-supervised pre-training", (False,)),
    "MODEL.HEAD_ACT": Unread("several labels for a video", ("softmax", "none")),
    "DETECTION.ENABLE": Unread("action detection", (False,)),
    "DEMO.ENABLE": Unread("drawing on videos", (False,)),
    "MULTIGRID.LONG_CYCLE": Unread("multigrid training", (False,)),
    "MULTIGRID.SHORT_CYCLE": Unread("multigrid training", (False,)),
    "MVIT.MODE": Unread("pooling by anything but `conv`", ("conv",)),
    "MVIT.POOL_FIRST": Unread("pooling before the projection", (False,)),
    "MVIT.SEPARATE_QKV": Unread("a query, key and value layer each", (False,)),
    "MVIT.USE_FIXED_SINCOS_POS": Unread("a fixed position embedding", (False,)),
    "MVIT.REV.ENABLE": Unread("reversible MViT", (False,)),
    "SOLVER.LARS_ON": Unread("LARS", (False,)),
    "DATA.MULTI_LABEL": Unread("several labels for a video", (False,)),
    "DATA.TRAIN_JITTER_MOTION_SHIFT": Unread("moving the crop over time", (False,)),
    "DATA.TRAIN_CROP_NUM_TEMPORAL": Unread("several clips of a training video", (1,)),
    "DATA.TRAIN_CROP_NUM_SPATIAL": Unread("several crops of a training clip", (1,)),
    "DATA.COLOR_RND_GRAYSCALE": Unread("self-supervised pre-training", (0.0,)),
    "DATA.TIME_DIFF_PROB": Unread("self-supervised pre-training", (0.0,)),
    "DATA.SSL_COLOR_JITTER": Unread("self-supervised pre-training", (False,)),
    "DATA.SSL_MOCOV2_AUG": Unread("self-supervised pre-training", (False,)),
    "DATA.IN22k_VAL_IN1K": Unread("validation on a part of the classes", ("", None)),
    "DATA.DUMMY_LOAD": Unread("training on one repeated batch", (False,)),
}

# (key, value) -> the value in its place, and the reason.
RENAMED: dict[tuple[str, str], tuple[str, str]] = {
    ("DATA.DECODING_BACKEND", "torchvision"): (
        "pyav",
        "torchvision no longer decodes videos; PyAV, which it wrapped, does",
    ),
    ("SOLVER.OPTIMIZING_METHOD", "mt_adamw"): (
        "adamw",
        "PyTorch's AdamW has taken in its multi-tensor form",
    ),
}
