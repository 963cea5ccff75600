"""The line protocol of `anneal bench --lines`, for contenders written in Python: a request per line, an answer per line."""
import json
import os
import re
import sys
import time

PROTOCOL = os.fdopen(os.dup(1), "w", buffering=1)
# What libraries print must not be taken for an answer.
os.dup2(2, 1)


def reset_peak():
    """Starts a new peak of resident memory (Linux)."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak_bytes():
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\s+(\d+) kB", file.read()).group(1)) * 1024


def answer_lines(label, works):
    """works: name of a piece of work to a function of its request that returns seconds, tokens and parts."""
    PROTOCOL.write(json.dumps({"ready": label}) + "\n")
    for line in sys.stdin:
        request = json.loads(line)
        reset_peak()
        answer = works[request["work"]](request)
        PROTOCOL.write(json.dumps({**answer, "peakBytes": peak_bytes()}) + "\n")


def generation(start, first, end, batch, new_tokens):
    """Decoding is timed from the first tokens on, as Anneal's own side does it."""
    parts = {"total": end - start, "firstTokens": first - start}
    return {"seconds": end - first, "tokens": batch * (new_tokens - 1), "parts": parts}


now = time.perf_counter
