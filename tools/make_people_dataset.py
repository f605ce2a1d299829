"""Write a data set of drawn people in COCO's layout, for training and testing without a download.

    python tools/make_people_dataset.py --output datasets/people --train 800 --val 100

gives datasets/people/{train,val}/*.jpg and datasets/people/annotations/person_keypoints_{train,val}.json, which any
COCO tool reads. The "segmentation" of a person is what is visible; "segmentations" also has the mask "amodal", which
continues behind what hides the person. An image depends only on seed, split, number and size: other numbers of workers
or images do not change it. An existing data set with the same settings is kept.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from maskrcnn_benchmark.data.synthetic_people import SPLITS, SceneSettings, write_split
from maskrcnn_benchmark.utils.argument_types import positive_int


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 if the folder cannot be written."""
    args = _parse_args(argv)
    settings = SceneSettings(width=args.width, height=args.height, max_people=args.max_people)
    try:
        for split in SPLITS:
            write_split(args.output, split, getattr(args, split), settings, args.seed, args.workers)
    except OSError as error:
        print(f"Cannot write the dataset to --output {args.output}: {error}. Name a folder with write permission.",
              file=sys.stderr)  # fmt: skip
        return 1
    return 0


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("datasets/people"), help="folder to write (%(default)s)")
    parser.add_argument("--train", type=positive_int, default=800, help="training images (%(default)s)")
    parser.add_argument("--val", type=positive_int, default=100, help="held-out images (%(default)s)")
    parser.add_argument("--width", type=positive_int, default=320, help="image width in pixels (%(default)s)")
    parser.add_argument("--height", type=positive_int, default=256, help="image height in pixels (%(default)s)")
    parser.add_argument(
        "--max-people", type=positive_int, default=4, help="maximum number of people per image (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--workers", type=positive_int, default=os.cpu_count() or 1, help="processes (%(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
