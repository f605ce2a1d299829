"""Every config key with its default.

Keys and defaults are those of maskrcnn-benchmark; keys marked "fork" are from its HRNet fork, keys marked "new" from
this project. YAML files of both load unchanged and keep their meaning. Sizes are in pixels of the resized image, unless
noted. A level is one map of the feature pyramid.
"""

from __future__ import annotations

import os

from .node import CfgNode as CN

_C = CN()

_C.VERSION = 1  # new: version of this set of keys, written into config.yml

# new: modules of your own, imported before anything else is read or built; they register heads, data sets, schedules
# and so on. Searched for among the installed packages and then in the working directory. This runs their code.
_C.IMPORTS = ()
_C.CUSTOM = CN()  # new: sections of keys that these modules declare, see config.declare_custom

# ---------------------------------------------------------------------------------------------------------------------
# Model
# ---------------------------------------------------------------------------------------------------------------------
_C.MODEL = CN()
_C.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"  # name of the detector class
_C.MODEL.DEVICE = "cuda"  # device of the model, as torch spells it
_C.MODEL.WEIGHT = ""  # initial weights: .pth, .pkl or .safetensors file, http(s) URL or catalog:// name; "" = random
_C.MODEL.WEIGHT_FORMAT = ""  # new: RGB or BGR: channels of the images that WEIGHT was trained with; "" = by its family
_C.MODEL.WEIGHT_LEAST_SHARE = 0.5  # new: refuse a WEIGHT of unknown names that fits a smaller part of the parameters
_C.MODEL.CHANNELS_LAST = False  # new: weights and maps in the channels-last layout; faster on CPUs and tensor cores
_C.MODEL.BOX_OFFSET = 1  # new: 1 = a box covers its far corner pixel (width x2 - x1 + 1), 0 = it does not
_C.MODEL.RPN_ONLY = False  # only the proposal stage; evaluation then reports box-proposal recall
_C.MODEL.MASK_ON = False  # add the mask branch
_C.MODEL.MULTI_MASK_ON = False  # new: add the branch of several named masks per instance, ROI_MULTI_MASK_HEAD
_C.MODEL.KEYPOINT_ON = False  # add the keypoint branch
_C.MODEL.REFINE_ON = False  # new: add the refine head after the mask and keypoint branches
_C.MODEL.RETINANET_ON = False  # RetinaNet in place of the RPN and the RoI heads; its keys are MODEL.RETINANET
_C.MODEL.CLS_AGNOSTIC_BBOX_REG = False  # one regressed box per RoI rather than one per class

_C.MODEL.BACKBONE = CN()
_C.MODEL.BACKBONE.CONV_BODY = "R-50-C4"  # name in the BACKBONES registry
_C.MODEL.BACKBONE.FREEZE_CONV_BODY_AT = 2  # ResNet: stem and stages below this index do not learn; 0 = all learn
_C.MODEL.BACKBONE.OUT_CHANNELS = 1024  # fork: its name for MODEL.RESNETS.BACKBONE_OUT_CHANNELS; setting one sets both

_C.MODEL.RESNETS = CN()
_C.MODEL.RESNETS.NUM_GROUPS = 1  # groups of the 3x3 convolutions; above 1 the body is a ResNeXt
_C.MODEL.RESNETS.WIDTH_PER_GROUP = 64  # channels per group in the first stage
_C.MODEL.RESNETS.STRIDE_IN_1X1 = True  # stride 2 on the first 1x1 convolution (MSRA's weights) or on the 3x3
_C.MODEL.RESNETS.TRANS_FUNC = "BottleneckWithFixedBatchNorm"  # residual block
_C.MODEL.RESNETS.STEM_FUNC = "StemWithFixedBatchNorm"
_C.MODEL.RESNETS.NORM = ""  # new: FrozenBN, BN, SyncBN, GN, LN or another name in NORMS; "" = by TRANS_FUNC, STEM_FUNC
# new: added to the variance in every norm of the body; -1 = 0 for FrozenBN, GROUP_NORM.EPSILON for GN, else 1e-5
_C.MODEL.RESNETS.NORM_EPS = -1.0
_C.MODEL.RESNETS.RES5_DILATION = 1  # dilation of the last stage; above 1 the stage keeps its input's resolution
_C.MODEL.RESNETS.BACKBONE_OUT_CHANNELS = 1024  # channels that RPN and heads receive: 256 with FPN, 1024 for C4
_C.MODEL.RESNETS.RES2_OUT_CHANNELS = 256  # channels of the first stage; each later stage doubles them
_C.MODEL.RESNETS.STEM_OUT_CHANNELS = 64
_C.MODEL.RESNETS.STAGE_WITH_DCN = (False, False, False, False)  # deformable convolution, stage by stage
_C.MODEL.RESNETS.WITH_MODULATED_DCN = False  # the modulated (v2) kind of it
_C.MODEL.RESNETS.DEFORMABLE_GROUPS = 1

_C.MODEL.FPN = CN()
_C.MODEL.FPN.USE_GN = False  # group normalisation after each convolution of the pyramid
_C.MODEL.FPN.USE_RELU = False  # ReLU after each convolution of the pyramid
_C.MODEL.FPN.NORM = ""  # new: as RESNETS.NORM; "" = by USE_GN

_C.MODEL.GROUP_NORM = CN()  # of every layer whose norm is GN
_C.MODEL.GROUP_NORM.DIM_PER_GP = -1  # channels per group; -1 = by NUM_GROUPS
_C.MODEL.GROUP_NORM.NUM_GROUPS = 32  # groups; -1 = by DIM_PER_GP
_C.MODEL.GROUP_NORM.EPSILON = 1e-5

# HRNet body and its stages. STAGE1 is one sequence of blocks; from STAGE2 on there are branches of falling resolution.
_C.MODEL.HRNET = CN()
_C.MODEL.HRNET.NORM = "FrozenBN"  # new: as RESNETS.NORM, but not ""
_C.MODEL.HRNET.NORM_EPS = -1.0  # new: added to the variance; -1 = GROUP_NORM.EPSILON for GN, else 1e-5
_C.MODEL.HRNET.STEM_CHANNELS = 64  # new: of both convolutions of the stem; 64 in every released model
_C.MODEL.HRNET.FREEZE_AT = 0  # new: stem (1) and stages up to this one (2 = STAGE1, ...) do not learn; 0 = all do
_C.MODEL.HRNET.CHECKPOINT_ACTIVATIONS = False  # new: recompute stages in the backward pass, less memory for more time
# fork: it never read the next seven keys and DECODER, and they are not read here; with them its files load
_C.MODEL.HRNET.BASE_CHANNEL = [96, 96, 96, 96]
_C.MODEL.HRNET.CHANNEL_GROWTH = 2
_C.MODEL.HRNET.BLOCK_TYPE = "BottleneckWithFixedBatchNorm"
_C.MODEL.HRNET.BRANCH_DEPTH = [3, 3, 3, 3]
_C.MODEL.HRNET.NUM_BLOCKS = [6, 4, 4, 4]
_C.MODEL.HRNET.NUM_LAYERS = [3, 3, 3]
_C.MODEL.HRNET.FINAL_CONV_KERNEL = 1
_C.MODEL.HRNET.DECODER = CN()
_C.MODEL.HRNET.DECODER.BLOCK = "BottleneckWithFixedBatchNorm"
_C.MODEL.HRNET.DECODER.HEAD_UPSAMPLING = "BILINEAR"
_C.MODEL.HRNET.DECODER.HEAD_UPSAMPLING_KERNEL = 1

_C.MODEL.HRNET.STAGE1 = CN()  # fork
_C.MODEL.HRNET.STAGE1.NUM_MODULES = 1  # not read: stage 1 is one module
_C.MODEL.HRNET.STAGE1.NUM_BRANCHES = 1  # not read: stage 1 has one branch
_C.MODEL.HRNET.STAGE1.NUM_BLOCKS = [3]  # residual blocks (4 in every released model)
_C.MODEL.HRNET.STAGE1.NUM_CHANNELS = [64]  # width, before a bottleneck's expansion by 4
_C.MODEL.HRNET.STAGE1.BLOCK = "BottleneckWithFixedBatchNorm"  # or BasicBlockWithFixedBatchNorm
_C.MODEL.HRNET.STAGE1.FUSE_METHOD = "SUM"  # not read: there is nothing to fuse

_C.MODEL.HRNET.STAGE2 = CN()  # fork
_C.MODEL.HRNET.STAGE2.NUM_MODULES = 1  # multi-branch modules, in sequence
_C.MODEL.HRNET.STAGE2.NUM_BRANCHES = 2  # parallel resolutions
_C.MODEL.HRNET.STAGE2.NUM_BLOCKS = [4, 4]  # residual blocks per branch
_C.MODEL.HRNET.STAGE2.NUM_CHANNELS = [24, 48]  # width per branch, before expansion
_C.MODEL.HRNET.STAGE2.BLOCK = "BottleneckWithFixedBatchNorm"
_C.MODEL.HRNET.STAGE2.FUSE_METHOD = "SUM"  # the only one

_C.MODEL.HRNET.STAGE3 = CN()  # fork; as STAGE2
_C.MODEL.HRNET.STAGE3.NUM_MODULES = 1
_C.MODEL.HRNET.STAGE3.NUM_BRANCHES = 3
_C.MODEL.HRNET.STAGE3.NUM_BLOCKS = [4, 4, 4]
_C.MODEL.HRNET.STAGE3.NUM_CHANNELS = [24, 48, 92]
_C.MODEL.HRNET.STAGE3.BLOCK = "BottleneckWithFixedBatchNorm"
_C.MODEL.HRNET.STAGE3.FUSE_METHOD = "SUM"

_C.MODEL.HRNET.STAGE4 = CN()  # fork; as STAGE2
_C.MODEL.HRNET.STAGE4.NUM_MODULES = 1
_C.MODEL.HRNET.STAGE4.NUM_BRANCHES = 4
_C.MODEL.HRNET.STAGE4.NUM_BLOCKS = [4, 4, 4, 4]
_C.MODEL.HRNET.STAGE4.NUM_CHANNELS = [24, 48, 92, 192]
_C.MODEL.HRNET.STAGE4.BLOCK = "BottleneckWithFixedBatchNorm"
_C.MODEL.HRNET.STAGE4.FUSE_METHOD = "SUM"
_C.MODEL.HRNET.STAGE4.MULTI_OUTPUT = True  # fuse into every branch; False: only into the first

_C.MODEL.NECK = CN()  # fork: HRFPN, the neck of HRNET-HR
_C.MODEL.NECK.IN_CHANNELS = (32, 64, 128, 256)  # channels of the body's outputs, finest first; () = take them from it
_C.MODEL.NECK.OUT_CHANNELS = 256  # channels of every level
_C.MODEL.NECK.NUM_OUTS = 5  # levels; strides 4, 8, 16, 32, 64, times STRIDE
_C.MODEL.NECK.STRIDE = 1  # new: stride of the convolution of each level; 2 for RetinaNet's levels, 8 to 128
_C.MODEL.NECK.POOLING = "AVG"  # how the coarser levels are made: AVG or MAX
_C.MODEL.NECK.NORM = ""  # new: norm after each convolution, as RESNETS.NORM; "" = none
_C.MODEL.NECK.ACTIVATION = False  # not read, nor does the fork read it
_C.MODEL.NECK.SHARING_CONV = False  # not read, nor does the fork read it

_C.MODEL.TIMM = CN()  # new: the body of CONV_BODY "timm-FPN"; `pip install timm`
_C.MODEL.TIMM.NAME = "resnet50"  # a convolutional model of timm
_C.MODEL.TIMM.PRETRAINED = False  # download timm's ImageNet weights when the model is built
_C.MODEL.TIMM.OUT_INDICES = (-4, -3, -2, -1)  # the model's maps that the pyramid reads; these have strides 4 to 32
_C.MODEL.TIMM.FROZEN = ()  # names of the model's submodules that do not learn, such as ("conv1", "bn1", "layer1")
_C.MODEL.TIMM.FREEZE_NORMS = False  # all batch norms keep their weights and statistics, for small batches

_C.MODEL.RPN = CN()
_C.MODEL.RPN.RPN_HEAD = "SingleConvRPNHead"  # name in the RPN_HEADS registry
_C.MODEL.RPN.USE_FPN = False  # several levels, one anchor size on each
_C.MODEL.RPN.ANCHOR_SIZES = (32, 64, 128, 256, 512)  # side of an anchor of aspect ratio 1
_C.MODEL.RPN.ANCHOR_STRIDE = (16,)  # pixels between neighbouring anchors, per level; () = the strides of the backbone
_C.MODEL.RPN.ASPECT_RATIOS = (0.5, 1.0, 2.0)  # height / width
# new: centre of the first cell's anchors, in parts of the cell: 0.5 = the middle of its pixels, 0 = its corner, where
# torchvision and Detectron2 centre them
_C.MODEL.RPN.ANCHOR_OFFSET = 0.5
# new: none: anchors have the exact area and ratio; base: a box of one cell is rounded, then scaled (released weights);
# corners: the corners about the centre are rounded (torchvision); "" = base with BOX_OFFSET 1, none with 0
_C.MODEL.RPN.ANCHOR_ROUNDING = ""
# new: step between anchors = size of the padded images // size of the map, as torchvision; False: ANCHOR_STRIDE
_C.MODEL.RPN.ANCHOR_STEP_FROM_SIZES = False
_C.MODEL.RPN.STRADDLE_THRESH = 0  # anchors further than this outside the image are not trained on; -1 = all are
_C.MODEL.RPN.FG_IOU_THRESHOLD = 0.7  # an anchor is positive from this overlap on
_C.MODEL.RPN.BG_IOU_THRESHOLD = 0.3  # and negative below this one
_C.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 256  # anchors sampled per image for the losses
_C.MODEL.RPN.POSITIVE_FRACTION = 0.5  # largest share of positives among them
_C.MODEL.RPN.SMOOTH_L1_BETA = 1.0 / 9  # new: where the box loss turns from square to linear; 0 = linear everywhere
# new: divisor of both losses: sampled = number of sampled anchors, batch_size = BATCH_SIZE_PER_IMAGE per image
_C.MODEL.RPN.LOSS_NORMALIZER = "sampled"
_C.MODEL.RPN.PRE_NMS_TOP_N_TRAIN = 12000  # best proposals per level and image that enter NMS
_C.MODEL.RPN.PRE_NMS_TOP_N_TEST = 6000
_C.MODEL.RPN.POST_NMS_TOP_N_TRAIN = 2000  # proposals per level and image that leave NMS
_C.MODEL.RPN.POST_NMS_TOP_N_TEST = 1000
_C.MODEL.RPN.NMS_THRESH = 0.7
# new: order of boxes in NMS and after it: logits, or probabilities, which are equal where float32 rounds them to 1
_C.MODEL.RPN.RANK_BY = "logits"
_C.MODEL.RPN.MIN_SIZE = 0  # proposals with a shorter side are dropped
_C.MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN = 2000  # proposals left after all levels are merged
_C.MODEL.RPN.FPN_POST_NMS_TOP_N_TEST = 2000
_C.MODEL.RPN.FPN_POST_NMS_PER_BATCH = True  # in training that number is per batch of a process, else per image
_C.MODEL.RPN.ADD_GT_PROPOSALS = True  # new: add the ground truth to the proposals in training, as upstream

_C.MODEL.ROI_HEADS = CN()
_C.MODEL.ROI_HEADS.USE_FPN = False  # pool from several levels
_C.MODEL.ROI_HEADS.FG_IOU_THRESHOLD = 0.5  # a RoI is foreground from this overlap on
_C.MODEL.ROI_HEADS.BG_IOU_THRESHOLD = 0.5  # and background below this one
_C.MODEL.ROI_HEADS.BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # factors on the regression targets dx, dy, dw, dh
_C.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 512  # RoIs sampled per image for the losses
_C.MODEL.ROI_HEADS.POSITIVE_FRACTION = 0.25  # largest share of foreground among them
# new: heads that train on the ground truth among the proposals: all, or box = only the box head. To the others it is a
# perfect crop, which they do not see at test time.
_C.MODEL.ROI_HEADS.GT_PROPOSALS_FOR = "all"
_C.MODEL.ROI_HEADS.SCORE_THRESH = 0.05  # detections below this score are dropped
_C.MODEL.ROI_HEADS.NMS = 0.5  # overlap above which NMS drops a detection of the same class
_C.MODEL.ROI_HEADS.DETECTIONS_PER_IMG = 100  # detections kept per image, over all classes
_C.MODEL.ROI_HEADS.MIN_SIZE = 0.0  # new: detections with a shorter side, in pixels, are dropped
# new: score = best first; class = class by class, with all that have the score of the last one, as upstream
_C.MODEL.ROI_HEADS.ORDER_BY = "score"
# new: a RoI is pooled from level floor(4 + log2(side / 224 + LEVEL_EPS)), with the side as BOX_OFFSET counts it
_C.MODEL.ROI_HEADS.LEVEL_EPS = 1e-6
_C.MODEL.ROI_HEADS.LEVEL_EPS_AFTER_LOG = False  # new: log2(side / 224) + LEVEL_EPS, as torchvision
_C.MODEL.ROI_HEADS.EXTRA = ()  # new: heads of your own, by their names in the ROI_HEADS registry

_C.MODEL.ROI_BOX_HEAD = CN()
_C.MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR = "ResNet50Conv5ROIFeatureExtractor"
_C.MODEL.ROI_BOX_HEAD.PREDICTOR = "FastRCNNPredictor"
_C.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 14  # bins per side of the pooled RoI
_C.MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO = 0  # samples per side of a bin; 0 = by the size of the RoI
# 1 / stride of each pooled level, finest first; () = the backbone's levels up to a stride of 32. So in every head.
_C.MODEL.ROI_BOX_HEAD.POOLER_SCALES = (0.0625,)
_C.MODEL.ROI_BOX_HEAD.POOLER_ALIGNED = False  # new: shift samples by half a cell, as later ROIAligns do
_C.MODEL.ROI_BOX_HEAD.NUM_CLASSES = 81  # classes with the background; of the mask branch too
_C.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA = 1.0  # new: as RPN.SMOOTH_L1_BETA
_C.MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM = 1024  # width of the fully connected layers
_C.MODEL.ROI_BOX_HEAD.USE_GN = False
_C.MODEL.ROI_BOX_HEAD.DILATION = 1  # of the convolutions of FPNXconv1fcFeatureExtractor
_C.MODEL.ROI_BOX_HEAD.CONV_HEAD_DIM = 256  # their width
_C.MODEL.ROI_BOX_HEAD.NUM_STACKED_CONVS = 4  # their number

_C.MODEL.ROI_MASK_HEAD = CN()
_C.MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR = "ResNet50Conv5ROIFeatureExtractor"
_C.MODEL.ROI_MASK_HEAD.PREDICTOR = "MaskRCNNC4Predictor"
_C.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 14
_C.MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO = 0
_C.MODEL.ROI_MASK_HEAD.POOLER_SCALES = (0.0625,)
_C.MODEL.ROI_MASK_HEAD.POOLER_ALIGNED = False  # new
_C.MODEL.ROI_MASK_HEAD.MLP_HEAD_DIM = 1024  # not read, nor does upstream read it
_C.MODEL.ROI_MASK_HEAD.CONV_LAYERS = (256,) * 4  # widths of the 3x3 convolutions; the last is the deconvolution's too
_C.MODEL.ROI_MASK_HEAD.RESOLUTION = 14  # cells per side of the predicted mask and of its target
_C.MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR = True  # reuse the box branch's features; for single-level bodies
_C.MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS = False  # paste masks into the image inside the model
_C.MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS_THRESHOLD = 0.5  # probability from which a pixel belongs to the pasted mask
# new: where a mask is pasted: box = exactly in its box (Detectron2), pixels = in whole pixels around it (upstream,
# torchvision)
_C.MODEL.ROI_MASK_HEAD.PASTE = "box"
# new: targets of the loss: binary = each cell is 0 or 1, soft = the object's share of the cell, as torchvision
_C.MODEL.ROI_MASK_HEAD.TARGET = "binary"
_C.MODEL.ROI_MASK_HEAD.DILATION = 1
_C.MODEL.ROI_MASK_HEAD.USE_GN = False
_C.MODEL.ROI_MASK_HEAD.LOSS_WEIGHT = 1.0  # new: factor on loss_mask
_C.MODEL.ROI_MASK_HEAD.RESCORE = False  # new: rank masks by box score times expected IoU, instead of the box score

# new: several masks per instance, each with a name; keys that are not explained are those of ROI_MASK_HEAD
_C.MODEL.ROI_MULTI_MASK_HEAD = CN()
_C.MODEL.ROI_MULTI_MASK_HEAD.MASKS = ("visible", "amodal")  # names of the masks, as the annotations have them
# if MASK_ON is False, the first mask is also what "mask" means: in ROI_REFINE_HEAD, for the task segm, in pictures
_C.MODEL.ROI_MULTI_MASK_HEAD.FIRST_IS_MASK = True
_C.MODEL.ROI_MULTI_MASK_HEAD.CLS_AGNOSTIC_MASK = False  # one map per mask rather than one per mask and class
_C.MODEL.ROI_MULTI_MASK_HEAD.FEATURE_EXTRACTOR = "MaskRCNNFPNFeatureExtractor"  # of the mask head, with the keys here
_C.MODEL.ROI_MULTI_MASK_HEAD.PREDICTOR = "MultiMaskRCNNPredictor"
_C.MODEL.ROI_MULTI_MASK_HEAD.POOLER_RESOLUTION = 14
_C.MODEL.ROI_MULTI_MASK_HEAD.POOLER_SAMPLING_RATIO = 2
_C.MODEL.ROI_MULTI_MASK_HEAD.POOLER_SCALES = ()
_C.MODEL.ROI_MULTI_MASK_HEAD.POOLER_ALIGNED = False
_C.MODEL.ROI_MULTI_MASK_HEAD.CONV_LAYERS = (256,) * 4
_C.MODEL.ROI_MULTI_MASK_HEAD.DILATION = 1
_C.MODEL.ROI_MULTI_MASK_HEAD.USE_GN = False
_C.MODEL.ROI_MULTI_MASK_HEAD.RESOLUTION = 28
_C.MODEL.ROI_MULTI_MASK_HEAD.TARGET = "binary"
_C.MODEL.ROI_MULTI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR = False
_C.MODEL.ROI_MULTI_MASK_HEAD.LOSS_WEIGHTS = ()  # factor on the loss of each mask, in the order of MASKS; () = 1 for all
# pairs (inner, outer) of masks of which the first lies inside the second, such as (("visible", "amodal"),)
_C.MODEL.ROI_MULTI_MASK_HEAD.INSIDE = ()
_C.MODEL.ROI_MULTI_MASK_HEAD.LOSS_WEIGHT_INSIDE = 0.0  # factor on loss_mask_inside, the part of inner outside of outer
_C.MODEL.ROI_MULTI_MASK_HEAD.POSTPROCESS_MASKS = False
_C.MODEL.ROI_MULTI_MASK_HEAD.POSTPROCESS_MASKS_THRESHOLD = 0.5
_C.MODEL.ROI_MULTI_MASK_HEAD.PASTE = "box"
_C.MODEL.ROI_MULTI_MASK_HEAD.RESCORE = False

_C.MODEL.ROI_KEYPOINT_HEAD = CN()
_C.MODEL.ROI_KEYPOINT_HEAD.FEATURE_EXTRACTOR = "KeypointRCNNFeatureExtractor"
_C.MODEL.ROI_KEYPOINT_HEAD.PREDICTOR = "KeypointRCNNPredictor"
_C.MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION = 14
_C.MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO = 0
_C.MODEL.ROI_KEYPOINT_HEAD.POOLER_SCALES = (0.0625,)
_C.MODEL.ROI_KEYPOINT_HEAD.POOLER_ALIGNED = False  # new
_C.MODEL.ROI_KEYPOINT_HEAD.MLP_HEAD_DIM = 1024  # not read, nor does upstream read it
_C.MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS = (512,) * 8  # widths of the 3x3 convolutions
_C.MODEL.ROI_KEYPOINT_HEAD.RESOLUTION = 14  # cells per side of the heatmap; 4 * POOLER_RESOLUTION, 56 in every recipe
_C.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES = 17  # keypoints per instance
# new: labels of the classes that have keypoints, such as (1,) for the people of COCO; () = every class. Others are not
# passed through the head and have no keypoints in the results. Training keeps images without keypoints
_C.MODEL.ROI_KEYPOINT_HEAD.CLASSES = ()
_C.MODEL.ROI_KEYPOINT_HEAD.SHARE_BOX_FEATURE_EXTRACTOR = True
_C.MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT = 1.0  # new: factor on loss_kp
# new: target of a heatmap: onehot, the cell with the keypoint (upstream); gaussian around the keypoint
_C.MODEL.ROI_KEYPOINT_HEAD.TARGET = "onehot"
# new: cross_entropy = softmax over the cells; mse = squared error of a Gaussian's heights, as HRNet
_C.MODEL.ROI_KEYPOINT_HEAD.LOSS = "cross_entropy"
_C.MODEL.ROI_KEYPOINT_HEAD.SIGMA = 2.0  # new: standard deviation of the Gaussian, in cells
_C.MODEL.ROI_KEYPOINT_HEAD.JOINT_WEIGHTS = ()  # new: factor on the loss of each keypoint; () = 1 for all
_C.MODEL.ROI_KEYPOINT_HEAD.OHKM_TOP = 0  # new: only so many keypoints per RoI count, the hardest; 0 = all
# new: divisor of loss_kp: visible = number of keypoints with a target, batch_size = all keypoints of as many RoIs as
# ROI_HEADS.BATCH_SIZE_PER_IMAGE * POSITIVE_FRACTION allows per image
_C.MODEL.ROI_KEYPOINT_HEAD.LOSS_NORMALIZER = "visible"
_C.MODEL.ROI_KEYPOINT_HEAD.DECODE = "bicubic"  # new: heatmap -> point: bicubic (upstream's), argmax, quarter or dark
_C.MODEL.ROI_KEYPOINT_HEAD.PREDICT_VISIBILITY = False  # new: probability that a keypoint is labelled, beside x and y
_C.MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT_VISIBILITY = 1.0  # new: factor on loss_kp_visibility
_C.MODEL.ROI_KEYPOINT_HEAD.RESCORE = False  # new: rank skeletons by box score times expected OKS

# new: one network, shared by the mask and keypoint branches, that refines their results in a larger RoI
_C.MODEL.ROI_REFINE_HEAD = CN()
_C.MODEL.ROI_REFINE_HEAD.INDICATORS = ("mask", "keypoint")  # coarse predictions that are inputs; any subset
_C.MODEL.ROI_REFINE_HEAD.OUTPUTS = ("mask", "keypoint")  # predictions that it refines; at least one
_C.MODEL.ROI_REFINE_HEAD.SHARED = True  # one trunk for all outputs; False: one each, with its own indicator
_C.MODEL.ROI_REFINE_HEAD.INDICATOR_FORM = "features"  # or maps of the predictor: probability, logit
_C.MODEL.ROI_REFINE_HEAD.DETACH_INDICATORS = True  # no gradient flows through the indicators into the coarse branches
_C.MODEL.ROI_REFINE_HEAD.ROI_EXPAND = 1.5  # factor on width and height of a RoI, about its centre
_C.MODEL.ROI_REFINE_HEAD.POOLER_RESOLUTION = 28  # bins per side of the pooled region; outputs have twice as many cells
_C.MODEL.ROI_REFINE_HEAD.POOLER_SCALES = (0.25,)  # the finest level only: large RoIs have fine details too
_C.MODEL.ROI_REFINE_HEAD.POOLER_SAMPLING_RATIO = 2
_C.MODEL.ROI_REFINE_HEAD.POOLER_ALIGNED = True
_C.MODEL.ROI_REFINE_HEAD.FEATURE_EXTRACTOR = "UNetRefineFeatureExtractor"
_C.MODEL.ROI_REFINE_HEAD.PREDICTOR = "RefinePredictor"
_C.MODEL.ROI_REFINE_HEAD.CONV_DIM = 64  # width of the trunk at its finest level
_C.MODEL.ROI_REFINE_HEAD.NORM = "GN"  # as RESNETS.NORM; "" = none
_C.MODEL.ROI_REFINE_HEAD.NUM_STACKS = 1  # hourglasses, in sequence
_C.MODEL.ROI_REFINE_HEAD.DEPTH = 2  # halvings of the resolution inside an hourglass
_C.MODEL.ROI_REFINE_HEAD.NUM_CONVS = 4  # 3x3 convolutions of the plain extractor
_C.MODEL.ROI_REFINE_HEAD.INTERMEDIATE_SUPERVISION = False  # a loss after every hourglass, not only after the last
_C.MODEL.ROI_REFINE_HEAD.LOSS_WEIGHT_MASK = 6.0  # the keypoint loss is a cross-entropy over a map, much larger
_C.MODEL.ROI_REFINE_HEAD.LOSS_WEIGHT_KEYPOINT = 1.0
_C.MODEL.ROI_REFINE_HEAD.OUTLINE_WEIGHT = 3.0  # extra weight of cells within 2 cells of the outline of a mask
# as in ROI_KEYPOINT_HEAD; "", 0, () and -1 = its values
_C.MODEL.ROI_REFINE_HEAD.TARGET = ""
_C.MODEL.ROI_REFINE_HEAD.LOSS = ""
_C.MODEL.ROI_REFINE_HEAD.SIGMA = 0.0  # in cells of the refined heatmap
_C.MODEL.ROI_REFINE_HEAD.JOINT_WEIGHTS = ()
_C.MODEL.ROI_REFINE_HEAD.OHKM_TOP = -1
_C.MODEL.ROI_REFINE_HEAD.DECODE = "dark"  # as ROI_KEYPOINT_HEAD.DECODE
_C.MODEL.ROI_REFINE_HEAD.RESCORE = True  # rank refined masks and skeletons by their expected quality, as above
_C.MODEL.ROI_REFINE_HEAD.FREEZE_DETECTOR = False  # only the refine head learns
_C.MODEL.ROI_REFINE_HEAD.KEEP_COARSE = True  # keep the coarse predictions in detections, so that both are evaluated

_C.MODEL.RETINANET = CN()  # where anchors lie, and how they are rounded: MODEL.RPN.ANCHOR_OFFSET and so on
_C.MODEL.RETINANET.NUM_CLASSES = 81  # with the background
_C.MODEL.RETINANET.ANCHOR_SIZES = (32, 64, 128, 256, 512)  # smallest size per level, or a tuple of sizes
_C.MODEL.RETINANET.ASPECT_RATIOS = (0.5, 1.0, 2.0)  # heights divided by widths
_C.MODEL.RETINANET.ANCHOR_STRIDES = (8, 16, 32, 64, 128)  # pixels per cell of each level; () = those of the backbone
_C.MODEL.RETINANET.STRADDLE_THRESH = 0  # not read, nor does upstream: all anchors are trained on
_C.MODEL.RETINANET.OCTAVE = 2.0  # a level's sizes are ANCHOR_SIZES * OCTAVE ** (k / SCALES_PER_OCTAVE), k from 0
_C.MODEL.RETINANET.SCALES_PER_OCTAVE = 3  # sizes per level
_C.MODEL.RETINANET.USE_C5 = True  # make P6 from C5, else from P5
_C.MODEL.RETINANET.NUM_CONVS = 4  # per tower
_C.MODEL.RETINANET.BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # new: factors of dx, dy, dw, dh; upstream's are fixed
_C.MODEL.RETINANET.BBOX_REG_WEIGHT = 4.0  # divisor of the regression loss
_C.MODEL.RETINANET.BBOX_REG_BETA = 0.11  # where smooth L1 turns from square to linear
_C.MODEL.RETINANET.PRE_NMS_TOP_N = 1000  # candidates per level and image before NMS
_C.MODEL.RETINANET.FG_IOU_THRESHOLD = 0.5  # anchors that overlap an object by at least this learn its class
_C.MODEL.RETINANET.BG_IOU_THRESHOLD = 0.4  # anchors below it are background; those between the two have no loss
_C.MODEL.RETINANET.LOSS_ALPHA = 0.25  # focal loss: weight of the foreground
_C.MODEL.RETINANET.LOSS_GAMMA = 2.0  # focal loss: exponent
_C.MODEL.RETINANET.PRIOR_PROB = 0.01  # foreground probability at the start
_C.MODEL.RETINANET.INFERENCE_TH = 0.05  # detections have a score above this
_C.MODEL.RETINANET.NMS_TH = 0.4  # detections of a class that overlap a better one more are dropped

_C.MODEL.FBNET = CN()  # mobile architectures; not read, kept so that their files load
_C.MODEL.FBNET.ARCH = "default"
_C.MODEL.FBNET.ARCH_DEF = ""
_C.MODEL.FBNET.BN_TYPE = "bn"
_C.MODEL.FBNET.SCALE_FACTOR = 1.0
_C.MODEL.FBNET.WIDTH_DIVISOR = 1
_C.MODEL.FBNET.DW_CONV_SKIP_BN = True
_C.MODEL.FBNET.DW_CONV_SKIP_RELU = True
_C.MODEL.FBNET.DET_HEAD_LAST_SCALE = 1.0
_C.MODEL.FBNET.DET_HEAD_BLOCKS = []
_C.MODEL.FBNET.DET_HEAD_STRIDE = 0
_C.MODEL.FBNET.KPTS_HEAD_LAST_SCALE = 0.0
_C.MODEL.FBNET.KPTS_HEAD_BLOCKS = []
_C.MODEL.FBNET.KPTS_HEAD_STRIDE = 0
_C.MODEL.FBNET.MASK_HEAD_LAST_SCALE = 0.0
_C.MODEL.FBNET.MASK_HEAD_BLOCKS = []
_C.MODEL.FBNET.MASK_HEAD_STRIDE = 0
_C.MODEL.FBNET.RPN_HEAD_BLOCKS = 0
_C.MODEL.FBNET.RPN_BN_TYPE = ""

# ---------------------------------------------------------------------------------------------------------------------
# Images and their augmentation
# ---------------------------------------------------------------------------------------------------------------------
_C.INPUT = CN()
_C.INPUT.MIN_SIZE_TRAIN = (800,)  # lengths of the shorter side; one is drawn per image
_C.INPUT.MAX_SIZE_TRAIN = 1333  # limit of the longer side; fork: a tuple with one limit per entry of MIN_SIZE_TRAIN
_C.INPUT.MIN_SIZE_TEST = 800
_C.INPUT.MAX_SIZE_TEST = 1333
# new: PIL, torchvision (bilinear on floats without antialiasing, sizes rounded down) or detectron2 (PIL, sizes rounded
# to the nearest)
_C.INPUT.RESIZE = "PIL"
_C.INPUT.ALIGN_IMAGE_FACTOR = 0  # fork: pad each image to a multiple of this many pixels; 0 = off
_C.INPUT.TO_BGR255 = True  # channels in the order BGR, values 0 to 255 (Caffe2's weights); False: RGB, 0 to 1
_C.INPUT.FORMAT = ""  # new: RGB, BGR (0 to 1), RGB255 or BGR255 (0 to 255); "" = what TO_BGR255 says
_C.INPUT.PIXEL_MEAN = [102.9801, 115.9465, 122.7717]  # per channel, in the order and range of the line above
_C.INPUT.PIXEL_STD = [1.0, 1.0, 1.0]
_C.INPUT.BRIGHTNESS = 0.0  # colour jitter in training: largest relative change; 0 = none
_C.INPUT.CONTRAST = 0.0
_C.INPUT.SATURATION = 0.0
_C.INPUT.HUE = 0.0  # largest change of the hue, as a fraction of the colour circle, at most 0.5
_C.INPUT.HORIZONTAL_FLIP_PROB_TRAIN = 0.5  # probability of a left-right flip
_C.INPUT.VERTICAL_FLIP_PROB_TRAIN = 0.0  # probability of an up-down flip
# new: augmentation, off by default (docs/AUGMENTATION.md). Instances with less than MIN_VISIBLE left are removed:
# a share of the area of the mask, or of the box if there is no mask
_C.INPUT.MIN_VISIBLE = 0.2
_C.INPUT.HALF_BODY = CN()  # new: crop to the upper or lower half of a person, before resizing
_C.INPUT.HALF_BODY.PROB = 0.0  # probability per image; 0 = off
_C.INPUT.HALF_BODY.UPPER = ()  # indices from 0 of the keypoints of the upper half; () = head and arms of COCO's 17
_C.INPUT.HALF_BODY.MIN_KEYPOINTS = 8  # only instances with this many labelled keypoints
_C.INPUT.HALF_BODY.MARGIN = 0.3  # on each side, as a share of the longer side of the box around the half's keypoints
_C.INPUT.RANDOM_CROP = CN()  # new: crop to a random part, before resizing
_C.INPUT.RANDOM_CROP.PROB = 0.0  # probability per image; 0 = off
_C.INPUT.RANDOM_CROP.SHARES = (0.5, 1.0)  # smallest and largest width and height, as shares of the image's
_C.INPUT.LARGE_SCALE_JITTER = CN()  # new: takes the place of resizing to MIN_SIZE_TRAIN
_C.INPUT.LARGE_SCALE_JITTER.ENABLED = False
_C.INPUT.LARGE_SCALE_JITTER.SIZE = 1024  # side in pixels of the square that larger images are cropped to
_C.INPUT.LARGE_SCALE_JITTER.SCALES = (0.1, 2.0)  # smallest and largest size, relative to an image that fits the square
_C.INPUT.RANDOM_AFFINE = CN()  # new: rotate and scale, after resizing and flips
_C.INPUT.RANDOM_AFFINE.PROB = 0.0  # probability per image; 0 = off
_C.INPUT.RANDOM_AFFINE.MAX_DEGREES = 30.0  # largest rotation in either direction
_C.INPUT.RANDOM_AFFINE.SCALES = (0.75, 1.25)  # smallest and largest factor
_C.INPUT.RANDOM_AFFINE.ABOUT = "image"  # image, or instance (the centre of the box of a random one)
_C.INPUT.COPY_PASTE = CN()  # new: paste instances of an image of the batch onto another
_C.INPUT.COPY_PASTE.PROB = 0.0  # probability per image; 0 = off
_C.INPUT.COPY_PASTE.MAX_INSTANCES = 5  # pasted onto an image at most
_C.INPUT.COPY_PASTE.UNCUT_MASKS = ()  # names of masks that include hidden parts: pasted instances do not cut them
# new: names in the registry TRANSFORMS; run in this order in training, after the flips and before the image becomes a
# tensor
_C.INPUT.TRANSFORMS_TRAIN = ()

# ---------------------------------------------------------------------------------------------------------------------
# Data
# ---------------------------------------------------------------------------------------------------------------------
_C.DATASETS = CN()
_C.DATASETS.TRAIN = ()  # names in the DatasetCatalog, joined to one training set
_C.DATASETS.TEST = ()  # names in the DatasetCatalog, evaluated one after the other
_C.DATASETS.FILTER_EMPTY = True  # new: leave out training images without usable annotations; False: keep them
# new: numbers of each annotation that targets carry, ((BoxList field, key in the JSON file), ...), such as
# (("ages", "age"),): field "ages", (R,) float32, NaN where an annotation does not have the key
_C.DATASETS.EXTRA_FIELDS = ()
# new: keys in the JSON file of named masks, ((name, key), ...), such as (("visible", "i_segm"), ("amodal", "a_segm"));
# a dot leads into a dictionary: "segmentations.amodal". A name without a key is read from "segmentations": {name: mask}
_C.DATASETS.MASK_KEYS = ()
# new: files with the keypoints of the same annotations, ((name in DATASETS.TRAIN or TEST, file), ...); relative paths
# are below the folder of the data sets. The catalog's coco_*_instances_and_keypoints need none
_C.DATASETS.KEYPOINT_FILES = ()
_C.DATASETS.MIN_KEYPOINTS = 10  # new: with keypoints on, leave out training images with fewer visible ones; 0 = off

_C.DATALOADER = CN()
_C.DATALOADER.NUM_WORKERS = 4  # loader processes per training process; 0 = load in the training process itself
_C.DATALOADER.SIZE_DIVISIBILITY = 0  # pad height and width of a batch to a multiple of this; 0 = no more than needed
_C.DATALOADER.ASPECT_RATIO_GROUPING = True  # landscape and portrait images in batches of their own

# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------
_C.SOLVER = CN()
_C.SOLVER.MAX_ITER = 40000  # optimizer steps
_C.SOLVER.IMS_PER_BATCH = 16  # images per iteration, over all processes
_C.SOLVER.ACCUMULATE = 1  # new: batches whose gradients are averaged for one optimizer step
_C.SOLVER.OPTIMIZER = "SGD"  # new: name in the registry OPTIMIZERS, such as AdamW
_C.SOLVER.BASE_LR = 0.001  # learning rate for the whole batch
_C.SOLVER.BIAS_LR_FACTOR = 2  # factor on it for biases
_C.SOLVER.MOMENTUM = 0.9  # of SGD
_C.SOLVER.WEIGHT_DECAY = 0.0005
_C.SOLVER.WEIGHT_DECAY_BIAS = 0
_C.SOLVER.WEIGHT_DECAY_NORM = -1.0  # new: of the scale of norm layers; -1 = as WEIGHT_DECAY
_C.SOLVER.LR_SCHEDULER = "WarmupMultiStepLR"  # new: name in the registry LR_SCHEDULERS, such as WarmupCosineLR
_C.SOLVER.GAMMA = 0.1  # factor at each step of WarmupMultiStepLR
_C.SOLVER.STEPS = (30000,)  # iterations at which it applies
_C.SOLVER.WARMUP_FACTOR = 1.0 / 3  # factor on the learning rate at iteration 0
_C.SOLVER.WARMUP_ITERS = 500  # iterations until it is 1
_C.SOLVER.WARMUP_METHOD = "linear"  # linear, or constant (the factor holds until the end of the warm-up)
_C.SOLVER.CLIP_GRADIENTS = CN()  # new
_C.SOLVER.CLIP_GRADIENTS.ENABLED = False
_C.SOLVER.CLIP_GRADIENTS.TYPE = "norm"  # norm: the length of all gradients together; value: each entry
_C.SOLVER.CLIP_GRADIENTS.VALUE = 10.0  # largest length or entry
_C.SOLVER.CLIP_GRADIENTS.NORM_TYPE = 2.0
_C.SOLVER.EMA_DECAY = 0.0  # new: decay of a running mean of the weights, per step; 0 = no mean
_C.SOLVER.ENABLE_FP16 = False  # fork: its name for DTYPE float16; setting it sets DTYPE
_C.SOLVER.CHECKPOINT_PERIOD = 2500  # iterations between checkpoints
_C.SOLVER.KEEP_LAST = 0  # new: checkpoints kept, the newest; 0 = all
_C.SOLVER.TEST_PERIOD = 0  # iterations between evaluations during training; 0 = none
_C.SOLVER.LOG_PERIOD = 20  # new: iterations between lines in the log
_C.SOLVER.HOOKS = ()  # new: hooks of your own, by their names in engine.hooks.HOOKS; called after the log is written

# ---------------------------------------------------------------------------------------------------------------------
# Evaluation
# ---------------------------------------------------------------------------------------------------------------------
_C.TEST = CN()
_C.TEST.IMS_PER_BATCH = 8  # images per step of each process, so that results do not depend on their number
_C.TEST.DETECTIONS_PER_IMG = 100  # of RetinaNet; ROI_HEADS.DETECTIONS_PER_IMG is that of R-CNN
# new: names in the registry EVALUATORS, which score the same detections and share one table; () = the one that the data
# set names, which is COCO's
_C.TEST.EVALUATORS = ()
_C.TEST.EXPECTED_RESULTS = []  # [[task, metric, [mean, deviation]], ...] to compare the results with
_C.TEST.EXPECTED_RESULTS_SIGMA_TOL = 4  # deviations from the mean that pass
_C.TEST.KEYPOINT_OKS_SIGMAS = []  # new: per keypoint, spread of annotations relative to the instance; [] = the data's
_C.TEST.PER_KEYPOINT = True  # new: AP and PCK of each keypoint
_C.TEST.BOUNDARY_AP = False  # new: score masks by their boundaries too (Boundary AP, Cheng et al. 2021)
_C.TEST.PICTURES = 8  # new: images with annotations drawn in, written after a test; 0 = none
# new: average the keypoints, or the masks, of a box with those of the mirrored image; docs/TEST_TIME_AUGMENTATION.md
_C.TEST.FLIP_KEYPOINTS = False
_C.TEST.FLIP_MASKS = False
_C.TEST.BBOX_AUG = CN()  # test-time augmentation
_C.TEST.BBOX_AUG.ENABLED = False  # merge the results in several views of each image; docs/TEST_TIME_AUGMENTATION.md
_C.TEST.BBOX_AUG.H_FLIP = False  # flip the image at INPUT.MIN_SIZE_TEST
_C.TEST.BBOX_AUG.SCALES = ()  # more lengths of the shorter side
_C.TEST.BBOX_AUG.MAX_SIZE = 4000  # limit of the longer side at these
_C.TEST.BBOX_AUG.SCALE_H_FLIP = False  # flip at each of these too
_C.TEST.MULTI_SCALE = False  # fork: MULTI_SIZES are views too; boxes are merged as with BBOX_AUG
_C.TEST.MULTI_SIZES = [(480, 800), (600, 1000), (800, 1333), (1000, 1667), (1200, 2000)]  # fork: (shorter, longer side)

# ---------------------------------------------------------------------------------------------------------------------
# The run
# ---------------------------------------------------------------------------------------------------------------------
_C.OUTPUT_DIR = "."  # checkpoints, logs and results
# Python file that defines DatasetCatalog and ModelCatalog; replace it by one of your own
_C.PATHS_CATALOG = os.path.join(os.path.dirname(os.path.abspath(__file__)), "paths_catalog.py")
_C.SEED = -1  # new: of all random numbers; -1 = draw one and log it
_C.DETERMINISTIC = False  # new: only operations whose result does not vary from run to run
_C.DTYPE = "float32"  # of the forward pass: float32, float16 or bfloat16 (the last two: mixed precision)
_C.AMP_VERBOSE = False  # not read: was a switch of NVIDIA's Apex

# ---------------------------------------------------------------------------------------------------------------------
# Values that keys accept besides those of their default's type
# ---------------------------------------------------------------------------------------------------------------------
_C.MODEL.RPN.also_accept("STRADDLE_THRESH", float)
_C.MODEL.RPN.also_accept("MIN_SIZE", float)
_C.MODEL.RETINANET.also_accept("STRADDLE_THRESH", float)
_C.INPUT.also_accept("MAX_SIZE_TRAIN", tuple)
_C.INPUT.accept_single("MIN_SIZE_TRAIN", "TRANSFORMS_TRAIN")
_C.accept_single("IMPORTS")
_C.DATASETS.accept_single("TRAIN", "TEST")
_C.SOLVER.accept_single("HOOKS")
_C.TEST.accept_single("EVALUATORS")
_C.MODEL.ROI_HEADS.accept_single("EXTRA")
_C.MODEL.ROI_REFINE_HEAD.accept_single("INDICATORS", "OUTPUTS")
_C.SOLVER.also_accept("BIAS_LR_FACTOR", float)
_C.SOLVER.also_accept("WEIGHT_DECAY_BIAS", float)
_C.TEST.also_accept("EXPECTED_RESULTS_SIGMA_TOL", float)
_C.twin_keys("MODEL.BACKBONE.OUT_CHANNELS", "MODEL.RESNETS.BACKBONE_OUT_CHANNELS")
_C.imply("SOLVER.ENABLE_FP16", "DTYPE", {True: "float16"})


def get_cfg() -> CN:
    """A fresh copy of the defaults, with the sections of CUSTOM that were declared so far."""
    cfg: CN = _C.clone()
    cfg.add_declared_sections()
    return cfg
