"""Read DICOM objects as grey-scale images: parser, decoders and the grey-scale pipeline of PS3.3 and PS3.4."""
