"""Heads whose extractor and predictor are named in the config, each in a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from maskrcnn_benchmark.modeling.roi_heads.outputs import OutputKind
from maskrcnn_benchmark.modeling.roi_heads.roi_head import ROIHead
from maskrcnn_benchmark.utils.problems import check_choice, config_problem
from maskrcnn_benchmark.utils.registry import Registry

if TYPE_CHECKING:
    from yacs.config import CfgNode


class BranchHead(ROIHead):
    """A head configured under MODEL.ROI_<NAME>_HEAD: the mask heads and the keypoint head. PREDICTOR has one output."""

    EXTRACTORS: ClassVar[Registry]
    PREDICTORS: ClassVar[Registry]

    @classmethod
    def output_from_cfg(cls, cfg: CfgNode) -> OutputKind:
        """The output that PREDICTOR predicts. A head with several overrides `outputs_from_cfg` instead."""
        raise NotImplementedError(f"{cls.__name__} needs a classmethod `output_from_cfg(cfg)`")

    @classmethod
    def outputs_from_cfg(cls, cfg: CfgNode) -> list[OutputKind]:
        return [cls.output_from_cfg(cfg)]

    @classmethod
    def own_predictors_from_cfg(cls, cfg: CfgNode, in_channels: int) -> dict[str, nn.Module]:
        """Output -> predictor, for outputs that PREDICTOR does not predict."""
        return {}

    @classmethod
    def shares_box_features(cls, cfg: CfgNode) -> bool:
        shares: bool = cfg.MODEL[cls._section()].SHARE_BOX_FEATURE_EXTRACTOR
        return shares

    @classmethod
    def from_cfg(
        cls, cfg: CfgNode, in_channels: int, *, learns: bool = True, shared_resolution: int | None = None
    ) -> BranchHead:
        section, node = cls._section(), cfg.MODEL[cls._section()]
        outputs = cls.outputs_from_cfg(cfg)
        check_choice(f"MODEL.{section}.PREDICTOR", node.PREDICTOR, cls.PREDICTORS)
        extractor: Any = None
        channels, resolution = in_channels, shared_resolution
        if cls.shares_box_features(cfg):
            cls._check_sharing(cfg)
        else:
            check_choice(f"MODEL.{section}.FEATURE_EXTRACTOR", node.FEATURE_EXTRACTOR, cls.EXTRACTORS)
            extractor = cls._make_extractor(cfg, in_channels)
            channels, resolution = extractor.out_channels, getattr(extractor, "resolution", None)
        predictor = cls.PREDICTORS[node.PREDICTOR](cfg, channels)
        cls._check_resolution(cfg, resolution, getattr(predictor, "upsampling", None))
        return cls(
            extractor,
            predictor,
            outputs=outputs,
            own_predictors=cls.own_predictors_from_cfg(cfg, channels),
            feature_channels=channels,
            learns=learns,
            **cls._settings_from_cfg(cfg),
        )

    @classmethod
    def _settings_from_cfg(cls, cfg: CfgNode) -> dict[str, Any]:
        """Further arguments of the constructor."""
        return {}

    @classmethod
    def _make_extractor(cls, cfg: CfgNode, in_channels: int) -> Any:
        return cls.EXTRACTORS[cfg.MODEL[cls._section()].FEATURE_EXTRACTOR](cfg, in_channels)

    @classmethod
    def _section(cls) -> str:
        return f"ROI_{cls.NAME.upper()}_HEAD"

    @classmethod
    def _check_sharing(cls, cfg: CfgNode) -> None:
        """Report a head that shares the box head's features but names a different extractor."""
        ours, boxes = cfg.MODEL[cls._section()].FEATURE_EXTRACTOR, cfg.MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR
        if ours != boxes:
            config_problem(
                f"MODEL.{cls._section()}.SHARE_BOX_FEATURE_EXTRACTOR is True, but the box head's extractor is {boxes} "
                f"and the {cls.NAME} head's {ours}. Set it to False, as every model with a feature pyramid does, or "
                "give both heads one extractor."
            )

    @classmethod
    def _check_resolution(cls, cfg: CfgNode, resolution: int | None, upsampling: int | None) -> None:
        """Report a RESOLUTION that differs from the predictor's output, if that is known."""
        if resolution is None or upsampling is None:
            return
        node, yielded = cfg.MODEL[cls._section()], resolution * upsampling
        if yielded != node.RESOLUTION:
            config_problem(
                f"MODEL.{cls._section()}.RESOLUTION is {node.RESOLUTION}, but {node.PREDICTOR} turns {resolution} "
                f"cells per side into {yielded}; set RESOLUTION to {yielded}, or change POOLER_RESOLUTION."
            )
