"""Labelled images and clips for classifiers: whole data sets as uint8 in memory, from the files they are published in."""

from squall.platform.image_data.config import ImageDataConfig
from squall.platform.image_data.images import ImageSet, split_validation
from squall.platform.image_data.loading import load_images

__all__ = ["ImageDataConfig", "ImageSet", "load_images", "split_validation"]
