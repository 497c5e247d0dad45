"""Music information retrieval that starts in Jupyter"""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mirkit.api import key_files, piano_files, resynth, resynth_files, track_files
    from mirkit.core.audio import load
    from mirkit.core.results import PitchTrack
    from mirkit.core.tracks import load_dataset
    from mirkit.ddsp.controls import Controls
    from mirkit.ddsp.decoder import DDSPDecoder
    from mirkit.ddsp.inverse import InverseSynth
    from mirkit.key.estimator import KeyEstimator, estimate_key
    from mirkit.key.result import KeyEstimate
    from mirkit.piano.notes import Notes
    from mirkit.piano.transcriber import PianoTranscriber, transcribe
    from mirkit.pitch.tracker import PitchTracker, track_pitch

# What users reach from the top, and the module it lives in. A module is imported when one of its names is first used,
# so that `import mirkit` costs nothing.
_HOMES = {
    "Controls": "mirkit.ddsp.controls",
    "DDSPDecoder": "mirkit.ddsp.decoder",
    "InverseSynth": "mirkit.ddsp.inverse",
    "KeyEstimate": "mirkit.key.result",
    "KeyEstimator": "mirkit.key.estimator",
    "estimate_key": "mirkit.key.estimator",
    "key_files": "mirkit.api",
    "load": "mirkit.core.audio",
    "load_dataset": "mirkit.core.tracks",
    "Notes": "mirkit.piano.notes",
    "PianoTranscriber": "mirkit.piano.transcriber",
    "piano_files": "mirkit.api",
    "PitchTrack": "mirkit.core.results",
    "PitchTracker": "mirkit.pitch.tracker",
    "resynth": "mirkit.api",
    "resynth_files": "mirkit.api",
    "track_files": "mirkit.api",
    "track_pitch": "mirkit.pitch.tracker",
    "transcribe": "mirkit.piano.transcriber",
}
__all__ = [
    "Controls",
    "DDSPDecoder",
    "InverseSynth",
    "KeyEstimate",
    "KeyEstimator",
    "Notes",
    "PianoTranscriber",
    "PitchTrack",
    "PitchTracker",
    "estimate_key",
    "key_files",
    "load",
    "load_dataset",
    "piano_files",
    "resynth",
    "resynth_files",
    "track_files",
    "track_pitch",
    "transcribe",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mirkit' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
