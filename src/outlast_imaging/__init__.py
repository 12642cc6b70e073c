"""An imaging service made with `outlast`: photographs become derivatives and descriptions."""

from outlast_imaging.service import ImagingService as ImagingService

__all__ = ["ImagingService"]
