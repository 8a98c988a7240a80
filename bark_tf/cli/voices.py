"""`bark-tf voices` and `bark-tf voice`."""

from __future__ import annotations

import argparse
import warnings
from typing import Any

from bark_tf.cli.arguments import MODEL_HELP, add_command, add_verbosity, chosen_model
from bark_tf.cli.console import note, one_line
from bark_tf.optional import named

# === voices ===

_VOICES_EXAMPLES = """examples:
  bark-tf voices                             # Suno's, with the extra `voices`
  bark-tf voices --model my-voice/           # with those of a checkpoint
  bark-tf voices | grep v2/de
"""


def add_voices(commands: Any) -> None:
    """Adds `bark-tf voices`."""
    parser = add_command(
        commands,
        "voices",
        _voices,
        "list the voices for speak --voice and their sources",
        _VOICES_EXAMPLES,
    )
    parser.add_argument("--model", metavar="DIR|ID", help=MODEL_HELP)
    add_verbosity(parser)


def _voices(arguments: argparse.Namespace) -> None:
    """Lists voices and their sources."""
    from bark_tf.processor import BarkProcessor
    from bark_tf.voices.presets import list_voices

    processor = BarkProcessor.from_pretrained(chosen_model(arguments))
    voices = list_voices(processor.speaker_embeddings)
    if not voices:
        note(
            arguments,
            f"no voices: Suno's 271 come with {named('voices')}, and --model adds "
            "those of a checkpoint",
        )
    width = max((len(voice.name) for voice in voices), default=0)
    for name, source in voices:
        print(one_line(f"{name:<{width}}  {source}"))


# === voice ===

_VOICE_EXAMPLES = """examples:
  # 5 to 13 seconds of yourself, ending at the end of a sentence:
  bark-tf voice me.wav --out me.npz --model my-bark --semantic-tokenizer hubert
  # Listen to me.roundtrip.wav, then speak with the voice:
  bark-tf speak "It is me" --voice me.npz --model my-bark
  # Convert the format of a phone first:
  ffmpeg -i me.m4a me.wav
"""


def add_voice(commands: Any) -> None:
    """Adds `bark-tf voice`."""
    parser = add_command(
        commands,
        "voice",
        _voice,
        "make a voice for speak from a recording",
        _VOICE_EXAMPLES,
    )
    parser.add_argument(
        "recording",
        metavar="RECORDING",
        help="wav, flac, ogg, opus or mp3, with the extra `formats` also m4a, mp4, aac "
        "or webm; best are 5 to 13 s of one person",
    )
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        metavar="NAME.npz",
        help="output, replaced if it exists; NAME.roundtrip.wav beside it is the "
        "recording after encoding and decoding",
    )
    parser.add_argument(
        "--text",
        metavar="TEXT",
        help="transcript, to check against the length of the recording; not stored",
    )
    parser.add_argument(
        "--model",
        metavar="DIR|ID",
        help="checkpoint to make the voice for; default: as for speak",
    )
    parser.add_argument(
        "--semantic-tokenizer",
        metavar="DIR",
        help="directory of the semantic tokenizer; default: that of the model",
    )
    add_verbosity(parser)


def _voice(arguments: argparse.Namespace) -> None:
    """Makes a voice from a recording."""
    from bark_tf.voices.cloning import (
        CONSENT,
        check_voice_paths,
        make_voice,
        save_voice,
    )

    model = chosen_model(arguments)
    check_voice_paths(arguments.out, arguments.recording)
    note(arguments, CONSENT)
    voice, report = make_voice(
        arguments.recording,
        model,
        semantic_tokenizer=arguments.semantic_tokenizer,
        text=arguments.text,
    )
    for text in report.warnings:
        warnings.warn(text, UserWarning, stacklevel=1)
    path, sound = save_voice(voice, report, arguments.out)
    if not arguments.quiet:
        print(f"{report}\n{path}, and its round trip through the codec: {sound}")
