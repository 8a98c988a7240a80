import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from bark_tf.audio.playing import check_player, play

AUDIO = np.sin(np.arange(2400) / 8).astype(np.float32)


@pytest.fixture
def programs(monkeypatch, tmp_path):
    """An empty search path, and no sounddevice."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    return tmp_path


def add(folder, name, script):
    program = folder / name
    program.write_text(f"#!{sys.executable}\n{script}\n")
    program.chmod(0o755)


def test_sounddevice_plays(monkeypatch):
    played = []
    device = SimpleNamespace(
        play=lambda *args, **how: played.append((*args, how)), PortAudioError=OSError
    )
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    check_player()
    play(2 * AUDIO, 24_000)
    ((audio, rate, how),) = played
    assert rate == 24_000 and how == {"blocking": True}
    np.testing.assert_array_equal(audio, np.clip(2 * AUDIO, -1, 1))


def test_without_a_sound_device_it_is_said(monkeypatch):
    class PortAudioError(Exception):
        pass

    def fail(*args, **how):
        raise PortAudioError("Error querying device -1")

    device = SimpleNamespace(play=fail, PortAudioError=PortAudioError)
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    with pytest.raises(OSError, match="No sound device plays: Error querying"):
        play(AUDIO, 24_000)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX programs")
def test_a_player_of_the_system_gets_a_file(programs):
    copy = "import shutil, sys; shutil.copy(sys.argv[2], 'heard.wav')"
    add(programs, "aplay", f"import os; os.chdir({str(programs)!r}); {copy}")
    check_player()
    play(AUDIO, 24_000)
    heard, rate = soundfile.read(programs / "heard.wav")
    assert rate == 24_000
    np.testing.assert_allclose(heard, AUDIO, atol=1e-4)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX programs")
def test_a_player_that_fails_is_named(programs):
    add(programs, "aplay", "import sys; sys.exit('noise\\nno soundcards found')")
    with pytest.raises(OSError, match=r"aplay could not play.*: no soundcards found"):
        play(AUDIO, 24_000)


@pytest.mark.skipif(os.name == "nt", reason="Windows has a player")
def test_without_a_player_the_extra_is_named(programs):
    with pytest.raises(ImportError, match=r'aplay.*pip install "\.\[play\]"'):
        check_player()
