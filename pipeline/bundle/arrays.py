"""Read an array whose shape is known beforehand from bytes that may come from anywhere."""

import io

import numpy as np

from pipeline.vectors import FloatArray


def read_array(content: bytes, shape: tuple[int, int]) -> FloatArray:
    """Return the float32 array in the bytes of an ``.npy`` file.

    Its header is read first, so that one that states a terabyte makes nobody allocate it.

    Raises:
        ValueError: not ``.npy``, cut off, or of another type or shape.
    """
    try:
        stream = io.BytesIO(content)
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f".npy of version {version[0]}.{version[1]}")
        first = version == (1, 0)
        header = (
            np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        )
        seen, _, dtype = header(stream)
        if seen != shape or dtype != np.float32:
            raise ValueError(f"{dtype} {list(seen)}, expected float32 {list(shape)}")
        return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))
    except ValueError:
        raise
    except Exception as error:  # the header is read by Python's own parser, which raises many
        raise ValueError(f"not an .npy file: {type(error).__name__}") from error
