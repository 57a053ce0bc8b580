"""Runs inside the peers' own environment: times pubmed_parser's three passes over the articles named on standard input.

One path a line in; out, one JSON line for it: {pass: {"cpu": s, "wall": s} or {"error": class}}. Imports nothing of
ours.
"""

import json
import os
import sys
import time
import warnings


def timed(function, path):
    """Return what one pass over one article took, or the class of what it raised."""
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        function(path)
    except Exception as error:  # noqa: BLE001  what a peer raises is counted, whatever it is
        return {"error": type(error).__name__}
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def main():
    """Answer until standard input closes."""
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a parser that prints must not spoil the answers
    import pubmed_parser

    passes = {
        "xml": pubmed_parser.parse_pubmed_xml,
        "caption": pubmed_parser.parse_pubmed_caption,
        "paragraph": pubmed_parser.parse_pubmed_paragraph,
    }
    for line in sys.stdin:
        path = line.rstrip("\n")
        answers.write(json.dumps({name: timed(function, path) for name, function in passes.items()}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
