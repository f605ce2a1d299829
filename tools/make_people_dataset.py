"""Write a dataset of drawn people in COCO's layout, to train and test on without a download.

    python tools/make_people_dataset.py --output datasets/people --train 800 --val 100

gives datasets/people/{train,val}/*.jpg and datasets/people/annotations/person_keypoints_{train,val}.json, which any
COCO tool reads. An image is a function of (seed, split, number, size) alone: more workers or more images change none
of those that were there. A dataset that is already there with the same settings is left alone.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from maskrcnn_benchmark.data.synthetic_people import SPLITS, SceneSettings, write_split


def main(argv: Sequence[str] | None = None) -> int:
    """Parse flags, write the splits, return the exit status."""
    args = _parse_args(argv)
    settings = SceneSettings(width=args.width, height=args.height, max_people=args.max_people)
    try:
        for split in SPLITS:
            write_split(args.output, split, getattr(args, split), settings, args.seed, args.workers)
    except OSError as error:
        print(f"Cannot write the dataset to --output {args.output}: {error}. Name a folder you may write to.",
              file=sys.stderr)  # fmt: skip
        return 1
    return 0


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("datasets/people"), help="folder to write (%(default)s)")
    parser.add_argument("--train", type=_positive, default=800, help="training images (%(default)s)")
    parser.add_argument("--val", type=_positive, default=100, help="held-out images (%(default)s)")
    parser.add_argument("--width", type=_positive, default=320, help="image width in pixels (%(default)s)")
    parser.add_argument("--height", type=_positive, default=256, help="image height in pixels (%(default)s)")
    parser.add_argument("--max-people", type=_positive, default=4, help="at most so many people an image (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--workers", type=_positive, default=os.cpu_count() or 1, help="processes (%(default)s)")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


if __name__ == "__main__":
    sys.exit(main())
