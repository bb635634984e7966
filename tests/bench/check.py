#!/usr/bin/env python3
"""What proa-bench says of what it measures: the JSON, the table, and the line that
shows how far it is. The figures themselves are not judged, but that they are there.

usage: check.py PROA-BENCH"""

import json
import os
import pty
import re
import subprocess
import sys
import tempfile

PATIENCE = 120
ENGINES = ("epoll", "select")
LATENCIES = ("p50_ns", "p99_ns", "p99_9_ns", "max_ns")
ALWAYS = {"work", "engine", "rounds", "operations_per_second", "cpu_ns", "system_calls"}
# What each kind of work has beside, by the begin of its name; the first that fits.
MORE = (
    (r"echo 64 B", {*LATENCIES, "bytes_per_second", "load_busy"}),
    (r"echo 16 KiB", {*LATENCIES, "bytes_per_second", "load_busy"}),
    (r"stream ", {*LATENCIES, "bytes_per_second", "load_busy"}),
    (r"churn ", {*LATENCIES, "bytes_per_second", "load_busy"}),
    (r"file ", {*LATENCIES, "bytes_per_second"}),
    (r"timers, \d+: arm", set()),
    (r"timers, \d+: move", set()),
    (r"timers, \d+: cancel", set()),
    (r"timers, \d+: fire", set()),
    (r"timers, \d+: on time", set(LATENCIES)),
    (r"post flood", set()),
    (r"post ping-pong", set(LATENCIES)),
)


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


def check_record(record):
    kinds = [more for pattern, more in MORE if re.match(pattern, record["work"])]
    expect(kinds, f"nobody knows of {record['work']!r}")
    expect(set(record) == ALWAYS | kinds[0], f"has {sorted(record)}, not {sorted(ALWAYS | kinds[0])}")
    expect(record["engine"] in ENGINES and record["rounds"] == 1, "its engine, and its rounds")
    for name in set(record) - {"work", "engine", "system_calls", "load_busy"}:
        expect(record[name] > 0, f"{name} is {record[name]}")
    expect(record["system_calls"] >= 0, "system calls are counted")
    expect(0 <= record.get("load_busy", 0) < 2, "how busy the load was is a share")
    # (The last alone is none of a bucket's begin.)
    latencies = [record[name] for name in LATENCIES if name in record]
    expect(latencies == sorted(latencies), f"latencies in order: {latencies}")


def check_json(report):
    expect(report["system"] and report["release"] and report["cores"] >= 1, "the machine")
    seen = set()
    for record in report["results"]:
        try:
            check_record(record)
        except AssertionError as error:
            raise AssertionError(f"{record}: {error}") from None
        seen.add((record["work"], record["engine"]))
    expect(len(seen) == len(report["results"]), "a record is there twice")
    for pattern, _ in MORE:
        for engine in ENGINES:
            expect(any(re.match(pattern, work) and of == engine for work, of in seen),
                   f"{pattern!r} is missing, of {engine}")
    return seen


def whole(bench):
    """Everything, with a table and a file, and progress told to no terminal."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "results")
        run = subprocess.run(
            [bench, "all", "--quick", "--seconds", "0.03", "--timers", "5000",
             "--file-size", "2", "--directory", folder, "--json", path,
             *(word for name in ENGINES for word in ("--engine", name))],
            capture_output=True, text=True, timeout=PATIENCE, check=False)
        expect(run.returncode == 0, f"exit {run.returncode}: {run.stdout}{run.stderr}")
        with open(path, encoding="utf-8") as file:
            seen = check_json(json.load(file))
    rows = run.stdout.splitlines()
    expect(rows[1].split() == ["work", "engine", "ops/s", "CPU", "calls", "p50", "p99", "p99.9", "max", "bytes/s",
                               "load"], f"the head of the table: {rows[1]}")
    for work, engine in seen:
        expect(any(re.match(rf"{re.escape(work)} +{engine} ", row) for row in rows), f"no row of {work}, {engine}")
    lines = [re.fullmatch(r"\[(\d+)/(\d+)\] (.+): (\w+)", line) for line in run.stderr.splitlines()]
    expect(lines and all(lines), f"lines that say how far it is: {run.stderr!r}")
    # The phases of timers are one measurement.
    runs = len({(work.partition(":")[0], engine) for work, engine in seen})
    for line in lines:
        expect(int(line[2]) == runs and 1 <= int(line[1]) <= runs, f"{line[0]}: of {runs}")
        expect((line[3], line[4]) in {(work.partition(":")[0], engine) for work, engine in seen}, line[0])
    places = [int(line[1]) for line in lines]
    expect(places == sorted(set(places)) and places[0] == 1, f"from the first on: {places}")


def on_terminal(bench):
    """One line, written over; JSON in the place of the table; and medians over rounds."""
    ours, theirs = pty.openpty()
    run = subprocess.run([bench, "post", "--seconds", "0.02", "--rounds", "2", "--engine", "epoll", "--json", "-"],
                         stdout=subprocess.PIPE, stderr=theirs, timeout=PATIENCE, check=False)
    os.close(theirs)
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    expect(run.returncode == 0, f"exit {run.returncode}")
    results = json.loads(run.stdout)["results"]
    expect([(record["work"], record["rounds"]) for record in results]
           == [("post flood", 2), ("post ping-pong", 2)], f"{results}")
    lines = [f"\r\x1b[K[{i + 1}/4] post {('flood', 'ping-pong')[i % 2]}: epoll" for i in range(4)]
    expect(shown == "".join(lines), f"{shown!r}")


def main():
    for case in (whole, on_terminal):
        case(sys.argv[1])
        print(f"ok      {case.__name__}")
    print("2 passed, 0 failed")


if __name__ == "__main__":
    main()
