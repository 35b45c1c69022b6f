"""From waves and images to what the encoders take, with the numbers of the originals' preprocessing."""

from gmijax.preprocessing._audio import ChunkedLogMel, LogMel, pad_waves, qwen2_audio_features, ultravox_features
from gmijax.preprocessing._audio_prompts import AudioPrompts, place_audio, qwen2_audio_prompt, ultravox_prompt
from gmijax.preprocessing._image_prompts import expand_placeholders, llava_prompt, prismatic_prompt
from gmijax.preprocessing._images import ImageTransform, clip_transform, dinov2_transform, siglip_transform
from gmijax.preprocessing._log_mel import HOP, SAMPLING_RATE, log_mel, mel_filters

__all__ = [
    "HOP",
    "SAMPLING_RATE",
    "AudioPrompts",
    "ChunkedLogMel",
    "ImageTransform",
    "LogMel",
    "clip_transform",
    "dinov2_transform",
    "expand_placeholders",
    "llava_prompt",
    "log_mel",
    "mel_filters",
    "pad_waves",
    "place_audio",
    "prismatic_prompt",
    "qwen2_audio_features",
    "qwen2_audio_prompt",
    "siglip_transform",
    "ultravox_features",
    "ultravox_prompt",
]
