#!/usr/bin/env python3
"""How much of the library the tests have run, all builds and engines together.

usage: report.py [--windows] [--least PERCENT] [--missing] BUILD-FOLDER...

The folders are builds with -Db_coverage=true whose tests have run. gcovr reads what they
have counted, one set of objects at a time: a function of which the preprocessor makes two
is more than it can put together. A file of which less was run than is asked for fails; so
does one that nothing tells of. What can't be run is in the file `unreachable`, with its
reason, and is not counted. With --windows the builds are mingw-w64's, and the table is of
what runs on Windows alone.
"""
import argparse
import collections
import fnmatch
import glob
import json
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LISTS = os.path.dirname(os.path.abspath(__file__))
ROOMS = ("lib", "emu", "engines")
ON_WINDOWS = ("engines/windows/*", "engines/iocp/*", "emu/w*")


def object_folders(build):
    """Where Meson puts the objects of each build of the library."""
    found = glob.glob(os.path.join(build, "libproa*.p"))
    found += glob.glob(os.path.join(build, "tests", "libproa*.p"))
    return [folder for folder in found if glob.glob(os.path.join(folder, "*.gcno"))]


def half_counted(said):
    """What gcovr says that it has left out: files, and numbers of lines."""
    file = None
    for line in said.splitlines():
        begun = re.search(r"Unrecognized GCOV output for (.+)$", line)
        if begun:
            file = os.path.relpath(os.path.join(ROOT, begun[1]), ROOT)
        below = re.match(r"\s*-\d+\*?:\s*(\d+):", line)
        if below and file:
            yield file, int(below[1])


def read_counts(folder, counts, torn, gcov):
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "counts.json")
        # What a thread was in the middle of when its process ended is half counted: gcov
        # makes less than nothing of a line now and then, at which gcovr would give up.
        # Such a line is neither run nor not, unless another build has run it.
        command = ["gcovr", "--gcov-executable", gcov, "--gcov-ignore-parse-errors"]
        command += ["--root", ROOT, "--json", path]
        for room in ROOMS:
            command += ["--filter", os.path.join(ROOT, room) + "/"]
        said = subprocess.run(
            command + [folder], check=False, cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        sys.stderr.write(said.stderr)
        said.check_returncode()
        torn.update(half_counted(said.stderr))
        with open(path, encoding="utf-8") as out:
            files = json.load(out)["files"]
    for file in files:
        for line in file["lines"]:
            if not line.get("gcovr/noncode"):
                counts[file["file"]][line["line_number"]] += line["count"]


class Exemption:
    """A line of the list: system | file | what of it | why."""

    def __init__(self, text, place):
        fields = [field.strip() for field in re.split(r" \| ", text)]
        if len(fields) != 4 or not all(fields) or fields[0] not in ("linux", "windows"):
            sys.exit(f"{place}: not 'linux or windows | file | what | reason'")
        self.system, self.file, self.what, self.reason = fields
        self.place, self.lines = place, 0

    def find(self, source):
        """The numbers of the lines that it speaks of: all, or those that match and what
        is indented under them."""
        if self.what == "all":
            return range(1, len(source) + 1)
        found = set()
        for index, line in enumerate(source):
            if not re.search(self.what, line):
                continue
            found.add(index + 1)
            depth = indent(line)
            for below in range(index + 1, len(source)):
                if source[below].strip() and indent(source[below]) <= depth:
                    # A function's body: from its name in the first column.
                    if depth > 0 or source[below][0] not in "{":
                        break
                found.add(below + 1)
        return found


def indent(line):
    return len(line) - len(line.lstrip("\t"))


def read_list(path):
    with open(path, encoding="utf-8") as file:
        return [
            Exemption(line, f"{path}:{number}")
            for number, line in enumerate(file, 1)
            if line.strip() and not line.startswith("#")
        ]


def ranges(numbers):
    """ "3-5 9": short, for people."""
    text, first, last = [], None, None
    for number in sorted(numbers) + [None]:
        if first is not None and number == last + 1 if number else False:
            last = number
            continue
        if first is not None:
            text.append(str(first) if first == last else f"{first}-{last}")
        first = last = number
    return " ".join(text)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--least", type=float, default=90)
    parser.add_argument("--missing", action="store_true", help="names the lines")
    parser.add_argument("--windows", action="store_true")
    parser.add_argument("folders", nargs="+")
    wishes = parser.parse_args()
    gcov = "x86_64-w64-mingw32-gcov" if wishes.windows else "gcov"
    counts, torn = collections.defaultdict(lambda: collections.defaultdict(int)), set()
    for build in wishes.folders:
        for folder in object_folders(build):
            read_counts(folder, counts, torn, gcov)
    for name, number in torn:
        if counts[name][number] == 0:
            del counts[name][number]
    system = "windows" if wishes.windows else "linux"
    exemptions = [
        one for one in read_list(os.path.join(LISTS, "unreachable")) if one.system == system
    ]
    passed = failed = total = run = 0
    sources = sorted(
        os.path.relpath(path, ROOT)
        for room in ROOMS
        for path in glob.glob(os.path.join(ROOT, room, "**", "*.[ch]"), recursive=True)
    )
    if wishes.windows:
        sources = [
            name for name in sources if any(fnmatch.fnmatch(name, one) for one in ON_WINDOWS)
        ]
    print(f"{'file':<32} {'lines':>6} {'run':>6} {'':>7}  {'exempt':>6}")
    for name in sources:
        with open(os.path.join(ROOT, name), encoding="utf-8") as file:
            text = file.read().split("\n")
        mine = [one for one in exemptions if fnmatch.fnmatch(name, one.file)]
        lines = counts.get(name, {})
        exempt = set()
        for one in mine:
            found = set(one.find(text))
            one.lines += len(found)
            exempt |= found
        if not lines:
            if name.endswith(".h") or exempt:
                continue
            print(f"{name:<32} nothing tells of it")
            failed += 1
            continue
        missing = {number for number, count in lines.items() if count == 0} - exempt
        exempted = {number for number, count in lines.items() if count == 0} & exempt
        counted = len(lines) - len(exempted)
        percent = 100 * (counted - len(missing)) / max(counted, 1)
        good = percent >= wishes.least
        passed, failed = passed + good, failed + (not good)
        total, run = total + counted, run + counted - len(missing)
        print(
            f"{name:<32} {counted:>6} {counted - len(missing):>6} {percent:>6.1f}%"
            f"  {len(exempted) or '':>6}{'' if good else '  too little'}"
        )
        if missing and (wishes.missing or not good):
            print(f"    not run: {ranges(missing)}")
    for one in exemptions:
        if one.lines == 0:
            print(f"{one.place}: {one.file} has no such line: {one.what}")
            failed += 1
    print(f"{'all':<32} {total:>6} {run:>6} {100 * run / max(total, 1):>6.1f}%")
    print(f"at least {wishes.least:g}% in each file: {passed} passed, {failed} failed")
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return failed > 0


sys.exit(main())
