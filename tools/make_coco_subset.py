"""Select a few images of a COCO data set, to check that a model can overfit them.

    python tools/make_coco_subset.py --coco datasets/coco --output datasets/ten --count 10
    MASKRCNN_BENCHMARK_DATASETS=datasets/ten \
        python tools/train_net.py --config-file configs/quick/fit_ten_coco_images.yaml

Takes the first images by id that show people, each with a mask and at least one labelled keypoint, and no crowd. The
output has COCO's layout in `coco/`, with links to the images, so that the names of the catalog find it. If there is a
file of instances, those of the chosen images are written too.

With --all-classes the objects of all classes decide: only images of two or more classes without crowd regions, in
which no object is smaller than 3.75 % of the image (short sides; 12 pixels at a short side of 320), for
configs/quick/fit_ten_coco_images_all_classes.yaml.

With --hull each person has two masks: "visible", which is COCO's, and "hull", its convex hull, for
configs/quick/fit_ten_coco_images_two_masks.yaml.
"""

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from maskrcnn_benchmark.structures.segmentation_mask import Polygons, SegmentationMask

SMALLEST_OBJECT = 0.0375  # short side of the smallest object that --all-classes allows, as a share of the image's


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 if no subset could be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", type=Path, default=Path("datasets/coco"), help="COCO's folder (%(default)s)")
    parser.add_argument("--split", default="train2017", help="split to select from (%(default)s)")
    parser.add_argument("--count", type=int, default=10, help="number of images (%(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; the subset is in coco/ below it")
    parser.add_argument("--hull", action="store_true", help='write the masks "visible" and "hull" of each person')
    parser.add_argument("--all-classes", action="store_true", help="choose images by the objects of all classes")
    args = parser.parse_args(argv)
    source = args.coco / "annotations" / f"person_keypoints_{args.split}.json"
    instances = args.coco / "annotations" / f"instances_{args.split}.json"
    try:
        content = json.loads(source.read_text())
        if args.all_classes:
            content = select(content, images_of_large_objects(json.loads(instances.read_text())))
        subset = pick(content, args.count)
        if args.hull:
            subset = with_hulls(subset)
        write(subset, args.coco, args.split, args.output / "coco")
        if instances.is_file():
            chosen = select(json.loads(instances.read_text()), {image["id"] for image in subset["images"]})
            (args.output / "coco" / "annotations" / instances.name).write_text(json.dumps(chosen))
    except (OSError, ValueError) as error:
        print(f"Cannot make a subset of {source}: {error}", file=sys.stderr)
        return 1
    print(f"{len(subset['images'])} images with {len(subset['annotations'])} people are in {args.output / 'coco'}")
    return 0


def pick(content: dict[str, Any], count: int) -> dict[str, Any]:
    """The content of the annotation file for `count` images. Raises: ValueError if there are too few."""
    people = defaultdict(list)
    for annotation in content["annotations"]:
        people[annotation["image_id"]].append(annotation)
    suitable = sorted(image_id for image_id, annotations in people.items() if all(map(_is_complete, annotations)))
    if not 0 < count <= len(suitable):
        raise ValueError(
            f"--count is {count}; {len(suitable)} of {len(content['images'])} images have people who all have a mask "
            "and keypoints. Give a smaller --count or a larger data set."
        )
    return select(content, set(suitable[:count]))


def select(content: dict[str, Any], image_ids: set[int]) -> dict[str, Any]:
    """The content of an annotation file for these images, annotations in the order of their images' ids."""
    images = [image for image in content["images"] if image["id"] in image_ids]
    annotations = [annotation for annotation in content["annotations"] if annotation["image_id"] in image_ids]
    return {**content, "images": images, "annotations": sorted(annotations, key=lambda entry: entry["image_id"])}


def images_of_large_objects(content: dict[str, Any]) -> set[Any]:
    """Ids of the images with two or more classes, no crowd regions and no object below SMALLEST_OBJECT."""
    objects = defaultdict(list)
    for annotation in content["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    chosen = set()
    for image in content["images"]:
        own, limit = objects[image["id"]], SMALLEST_OBJECT * min(image["width"], image["height"])
        several = len({annotation["category_id"] for annotation in own}) > 1
        if several and all(not each["iscrowd"] and min(each["bbox"][2:]) >= limit for each in own):
            chosen.add(image["id"])
    return chosen


def _is_complete(annotation: dict[str, Any]) -> bool:
    return not annotation["iscrowd"] and annotation["num_keypoints"] > 0 and bool(annotation["segmentation"])


def with_hulls(subset: dict[str, Any]) -> dict[str, Any]:
    """The same annotations with the masks "visible" and "hull" besides their segmentation."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in subset["images"]}
    annotations = []
    for annotation in subset["annotations"]:
        mask = annotation["segmentation"]
        masks = {"visible": mask, "hull": convex_hull(mask, sizes[annotation["image_id"]])}
        annotations.append({**annotation, "segmentations": masks})
    return {**subset, "annotations": annotations}


def convex_hull(segmentation: Any, size_wh: tuple[int, int]) -> list[list[float]]:
    """The convex hull of polygons or run lengths of an image of `size_wh`, as polygons with one part."""
    (outlines,) = SegmentationMask([segmentation], size_wh).convert("poly").instances
    points = np.concatenate(outlines.parts) if isinstance(outlines, Polygons) else np.zeros((0, 2))
    return [cv2.convexHull(points.astype(np.float32)).ravel().round(2).tolist()] if len(points) else []


def write(subset: dict[str, Any], coco: Path, split: str, output: Path) -> None:
    """Write the annotation file and link the images; replaces the files of an earlier run."""
    folder = output / split
    folder.mkdir(parents=True, exist_ok=True)
    (output / "annotations").mkdir(exist_ok=True)
    for image in subset["images"]:
        link = folder / image["file_name"]
        link.unlink(missing_ok=True)
        os.symlink((coco / split / image["file_name"]).resolve(strict=True), link)
    (output / "annotations" / f"person_keypoints_{split}.json").write_text(json.dumps(subset))


if __name__ == "__main__":
    sys.exit(main())
