"""Encode phantoms as valid DX, CR and CT objects (PS3.3 A.26, A.2, A.3) with pydicom. The same seed gives the same bytes."""

from __future__ import annotations

import io

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from medood.phantom.chest import FloatImage

_STORAGE: dict[str, UID] = {
    "DX": DigitalXRayImageStorageForPresentation,
    "CR": ComputedRadiographyImageStorage,
    "CT": CTImageStorage,
}
_MAX_12_BIT = 4095


def dicom_bytes(image: FloatImage, name: str, *, modality: str = "DX", body_part: str = "CHEST", view: str = "PA") -> bytes:
    """Encode an image as a DICOM file.

    12 bits stored, 16 allocated. DX and CR: about half of the names give MONOCHROME1, with a window over the whole range.
    CT: signed values with a rescale to Hounsfield units and a window.

    Args:
        image: ``[H, W]`` in [0, 1], bone white.
        name: determines the UIDs and the synthetic patient.
        modality: DX, CR or CT.
        body_part: Body Part Examined.
        view: View Position, for DX and CR.
    """
    number = int.from_bytes(generate_uid(entropy_srcs=[name]).encode()[-6:], "big")
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = _STORAGE[modality]
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid(entropy_srcs=["instance", name])
    data.StudyInstanceUID = generate_uid(entropy_srcs=["study", name])
    data.SeriesInstanceUID = generate_uid(entropy_srcs=["series", name])
    data.ImageType = ["DERIVED", "PRIMARY"] if modality != "CT" else ["DERIVED", "PRIMARY", "AXIAL"]
    data.StudyDate = data.ContentDate = "20260101"
    data.StudyTime = data.ContentTime = "120000"
    data.AccessionNumber = ""
    data.Modality = modality
    data.Manufacturer = "medood phantom"
    data.ReferringPhysicianName = ""
    data.PatientName = f"Phantom^{name}"
    data.PatientID = f"PHANTOM-{name}"
    data.PatientBirthDate = ""
    data.PatientSex = "O"
    data.StudyID = "1"
    data.SeriesNumber = 1
    data.InstanceNumber = 1
    data.BodyPartExamined = body_part
    data.SamplesPerPixel = 1
    data.Rows, data.Columns = image.shape
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    if modality == "CT":
        data.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame", name])
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness, data.KVP = [1.4, 1.4], 5, 120
        data.PositionReferenceIndicator = ""
        data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 1
        data.RescaleIntercept, data.RescaleSlope, data.RescaleType = 0, 1, "HU"
        data.WindowCenter, data.WindowWidth = 0, 1400
        stored = np.rint(image * 1400 - 700).astype("<i2")
    else:
        is_odd = number % 2 == 1
        data.PatientOrientation = ["L", "F"]
        data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME1" if is_odd else "MONOCHROME2", 0
        data.PresentationLUTShape = "INVERSE" if is_odd else "IDENTITY"
        data.ViewPosition = view
        data.ImagerPixelSpacing = [0.14 * 2500 / image.shape[0]] * 2
        data.RescaleIntercept, data.RescaleSlope, data.RescaleType = 0, 1, "US"
        data.WindowCenter, data.WindowWidth = 2048, 4096
        data.BurnedInAnnotation = "NO"
        if modality == "DX":
            data.PresentationIntentType = "FOR PRESENTATION"
            data.PixelIntensityRelationship, data.PixelIntensityRelationshipSign = "LOG", -1 if is_odd else 1
            data.LossyImageCompression = "00"
        unit = 1.0 - image if is_odd else image
        stored = np.rint(unit * _MAX_12_BIT).astype("<u2")
    data.PixelData = stored.tobytes()
    data["PixelData"].VR = "OW"
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
