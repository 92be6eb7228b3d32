"""Pictures of cameras: arrays, encoded pictures in a table, and frames of videos. Videos take PyAV, where they are there."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from collapsekit.data.episodes.tables import need_module
from collapsekit.errors import CollapsekitError, DataError
from collapsekit.user_code.frames import one_line

CHANNELS = (1, 3, 4)
_LARGEST = 64_000_000  # numbers of one picture
_NEAR = 2.0  # seconds ahead up to which a video is read on rather than sought in


class ArrayCamera:
    """Pictures that are an array: (frames, h, w, c) or (frames, c, h, w), bytes or numbers."""

    def __init__(self, values: Tensor) -> None:
        self.last = values.shape[-1] in CHANNELS and values.shape[1] not in CHANNELS
        self.values = values

    def picture(self, row: int) -> Tensor:
        """Return the picture of a frame, (c, h, w). Raises DataError where it cannot be read."""
        return as_picture(self.values[row], last=self.last)


class EncodedCamera:
    """Pictures that a table holds as the bytes of a PNG or JPEG."""

    def __init__(self, values: Sequence[Any], origin: str) -> None:
        self.values, self.origin = values, origin

    def picture(self, row: int) -> Tensor:
        """Return the picture of a frame, (c, h, w). Raises DataError where it cannot be read."""
        from PIL import Image

        value = self.values[row]
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise DataError(f"frame {row} of {self.origin} holds no picture: export the recording with its pictures.")
        try:
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
                if image.width * image.height * 4 > _LARGEST:
                    raise DataError(
                        f"the picture of frame {row} of {self.origin} is {image.width}×{image.height}: too large."
                    )
                return as_picture(torch.from_numpy(np.array(image.convert("RGB"))), last=True)
        except CollapsekitError:
            raise
        except Exception as e:  # noqa: BLE001 - damaged bytes make a decoder raise almost anything
            raise DataError(f"the picture of frame {row} of {self.origin} cannot be read ({one_line(e)}).") from None


class VideoCamera:
    """Frames of videos, each found by its time."""

    def __init__(self, places: Sequence[tuple[Path, float]], rate: float) -> None:
        """``places``: the file and the seconds in it, of every frame; ``rate``: frames a second."""
        self.places, self.rate = places, rate
        self._open: _OpenVideo | None = None

    def picture(self, row: int) -> Tensor:
        """Return the picture of a frame, (c, h, w). Raises DataError where it cannot be read."""
        path, seconds = self.places[row]
        if self._open is None or self._open.path != path:
            if self._open is not None:
                self._open.close()
            self._open = _OpenVideo(path)
        return as_picture(torch.from_numpy(self._open.frame_at(seconds, 0.5 / self.rate)), last=True)


class _OpenVideo:
    """One video that is read on from frame to frame, as examples come in their order."""

    def __init__(self, path: Path) -> None:
        av = need_module("av", f"{path.name} (video)")
        self.path = path
        if not path.is_file():
            raise DataError(f"the video {path} is not there: get the recording with its videos.")
        try:
            self.container = av.open(str(path))
            self.stream = self.container.streams.video[0]
        except Exception as e:  # noqa: BLE001 - damaged bytes make a decoder raise almost anything
            raise DataError(f"the video {path} cannot be opened ({one_line(e)}): get it anew.") from None
        self.frames: Any = None
        self.current: Any = None

    def close(self) -> None:
        """Give the file back."""
        self.container.close()

    def frame_at(self, seconds: float, near: float) -> Any:
        """Return the frame that is shown at a time, (h, w, 3) bytes. Raises DataError where there is none so near."""
        try:
            found = self._seek(seconds, near)
        except CollapsekitError:
            raise
        except Exception as e:  # noqa: BLE001 - the same
            raise DataError(f"the video {self.path} cannot be read at {seconds:.3f} s ({one_line(e)}).") from None
        if found is None:
            raise DataError(
                f"the video {self.path} has no frame at {seconds:.3f} s: it is shorter than the recording says."
            )
        if found.width * found.height * 4 > _LARGEST:
            raise DataError(f"the video {self.path} is {found.width}×{found.height}: make it smaller.")
        return found.to_ndarray(format="rgb24")

    def _seek(self, seconds: float, near: float) -> Any:
        at = None if self.current is None else float(self.current.time)
        if at is not None and abs(at - seconds) < near:
            return self.current
        if at is None or not at < seconds < at + _NEAR:
            self.container.seek(max(0, int(seconds / self.stream.time_base)), stream=self.stream)
            self.frames = self.container.decode(self.stream)
        for frame in self.frames:
            self.current = frame
            if frame.time is not None and frame.time > seconds - near:
                return frame if frame.time < seconds + near else None
        self.current = None
        return None


def as_picture(values: Tensor, *, last: bool) -> Tensor:
    """Return a picture as models of LeRobot are given it.

    Args:
        values: (c, h, w), or (h, w, c) where channels come ``last``; bytes, or numbers.
        last: where the channels are.

    Returns:
        Float32 (c, h, w), bytes divided by 255.
    """
    picture = values.movedim(-1, 0) if last else values
    return picture.float() / 255 if values.dtype == torch.uint8 else picture.float()
