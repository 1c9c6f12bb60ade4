"""Audio files as streams leave them, with sizes that nobody filled in, and files that are cut off."""

import io
import struct

import soundfile


def encoded(waveform, rate, suffix, **how):
    """The bytes of a whole file: float or int16 samples at a rate, in the format of a suffix."""
    file = io.BytesIO()
    formats = {"aiff": "AIFF", "au": "AU", "caf": "CAF", "w64": "W64", "rf64": "RF64", "mp3": "MP3", "opus": "OGG"}
    if suffix == "opus":
        how = {"subtype": "OPUS"} | how
    soundfile.write(file, waveform, rate, format=formats.get(suffix, suffix.upper()), **how)
    return file.getvalue()


def patched(raw, **places):
    """Bytes with others in some places. places: name of a chunk, or `at_N` -> (offset behind its begin, bytes)."""
    changed = bytearray(raw)
    for name, (offset, value) in places.items():
        begin = int(name[3:]) if name.startswith("at_") else raw.index(name.encode())
        changed[begin + offset : begin + offset + len(value)] = value
    return bytes(changed)


def wav_sizes(raw, riff, data):
    """A wav with other sizes of the file and of its samples."""
    return patched(raw, RIFF=(4, struct.pack("<I", riff)), data=(4, struct.pack("<I", data)))


def flac_without_length(raw):
    """A flac whose header counts no samples, as an encoder writes it into a pipe."""
    return patched(raw, at_18=(0, (int.from_bytes(raw[18:26], "big") >> 36 << 36).to_bytes(8, "big")))


def streams(waveform, rate):
    """Name of a file -> its bytes: the same samples as different programs stream them."""
    wav, au, caf, rf64, aiff, w64, flac = (
        encoded(waveform, rate, suffix) for suffix in ("wav", "au", "caf", "rf64", "aiff", "w64", "flac")
    )
    unknown = b"\xff" * 8
    return {
        "sox.wav": wav_sizes(wav, 0x7FFFF024, 0x7FFFF000),
        "ffmpeg.wav": wav_sizes(wav, 0xFFFFFFFF, 0xFFFFFFFF),
        "arecord.wav": wav_sizes(wav, 0x80000024, 0x80000000),
        "killed.wav": wav_sizes(wav, 36, 0),
        "zeros.wav": wav_sizes(wav, 0, 0),
        "one_zero.wav": wav_sizes(wav, 0xFFFFFFFF, 0),
        "unknown.au": patched(au, at_8=(0, unknown[:4])),
        "zero.au": patched(au, at_8=(0, bytes(4))),
        "unknown.caf": patched(caf, data=(4, unknown)),
        "sox.aiff": patched(aiff, FORM=(4, struct.pack(">I", 0x7F00002E)), SSND=(4, struct.pack(">I", 0x7F000008))),
        "zeros.rf64.wav": patched(rf64, ds64=(8, bytes(16))),
        "unknown.rf64.wav": patched(rf64, ds64=(8, unknown * 2)),
        "unknown.w64": patched(w64, at_16=(0, unknown), data=(16, unknown)),
        "pipe.flac": flac_without_length(flac),
    }
