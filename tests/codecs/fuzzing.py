"""Damaged streams and forged model files, used as anyone would: a program, so that a crash is seen as one.

`run` starts it; `python fuzzing.py KIND FIRST LAST` prints the number of each case before the case, and then
what became of it. KIND is one of `STREAMS` or `MODELS`, or "streams" or "models" for all of them by turns.
"""

from __future__ import annotations

import random
import resource
import signal
import sys
import zlib
from collections import Counter
from pathlib import Path

LIMIT_S = 5
LIMIT_BYTES = 2 << 30
STREAMS = ("narrow", "full", "bpg", "resealed")
MODELS = ("tables", "numbers", "weights", "shapes", "architecture", "bytes", "preprocessor", "proxy", "zoo")


def run(kind: str, count: int, *, first: int = 0) -> Counter[str]:
    """What became of cases `first` to `first + count`: "refused", "same", "some image", or a fault."""
    import programs

    outcomes: Counter[str] = Counter()
    next_one, last = first, first + count
    while next_one < last:
        command = ["-W", "ignore", __file__, kind, next_one, last]
        done = programs.run(command, timeout=3600)
        lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
        assert lines, done.stderr
        outcomes.update(outcome for _, outcome in lines if outcome != "?")
        next_one = int(lines[-1][0]) + 1
        if lines[-1][1] == "?" or done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or [f"signal {-done.returncode}"]
            outcomes[f"fault in case {lines[-1][0]}: {done.returncode} {reason[0]}"] += 1
    return outcomes


def main(kind: str, first: int, last: int) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever a library is doing
    from forging import model_case

    kinds = {"streams": STREAMS, "models": MODELS}.get(kind, (kind,))
    cases = [_stream_case(each) if each in STREAMS else model_case(each) for each in kinds]
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + 2 * LIMIT_BYTES,) * 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(first, last):
        print(number, "?", flush=True)
        signal.alarm(LIMIT_S)
        outcome = cases[number % len(cases)](random.Random(f"{kind} {number}"))
        signal.alarm(0)
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > LIMIT_BYTES >> 10:
            sys.exit("it took too much memory")
        print(number, outcome, flush=True)


def _stream_case(kind):
    from forging import SIZE, small_image, small_network, spoilt_bytes

    from vcm.codecs import BPGCodec, LearnedCodec, SlimmableFeatureCodec
    from vcm.errors import BitstreamError, CodecError

    if kind == "bpg":
        codec = BPGCodec(30, preset="fast", integrity_hash=True)
        data = codec.encode(small_image())
    else:
        network = small_network(means=True)
        codec = SlimmableFeatureCodec(model=network) if kind == "narrow" else LearnedCodec(model=network)
        data = (
            codec.encode(small_image()[None] / 255, SIZE) if kind == "narrow" else codec.encode(small_image())
        )
        codec.decode(data)

    def case(rng):
        damaged = spoilt_bytes(data, rng)
        if kind == "resealed" and len(damaged) > 4:
            damaged = damaged[:-4] + zlib.crc32(damaged[:-4]).to_bytes(4, "big")
        try:
            decoded = codec.decode(damaged)
        except BitstreamError:
            return "refused"
        except CodecError:
            return "refused" if kind == "resealed" else "silent"
        if kind == "resealed":
            assert decoded.shape[0] == 3
            return "some image"
        return "silent"

    return case


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
