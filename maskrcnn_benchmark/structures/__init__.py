"""What knows the image it lies in: boxes with their fields, masks, keypoints, padded batches, and pictures of them."""
