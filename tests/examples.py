#!/usr/bin/env python3
"""Runs the examples, the programs of tests/programs and the code printed in the
documents: each is started on each engine, talked to over real sockets, and its
bytes and its end are checked. Meson passes the paths; the last line counts."""

import argparse
import concurrent.futures
import contextlib
import ctypes
import hashlib
import os
import random
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback

PATIENCE = 30 * int(os.environ.get("TEST_TIME_FACTOR", "1"))  # seconds that anything may take
HOST = "127.0.0.1"
ENGINES = ("io_uring", "epoll", "poll", "select")
WINDOWS_ENGINES = ("iocp", "poll", "select")
WINE = []  # what runs a program built for Windows


class Skipped(Exception):
    """The case can't run here; its text says why."""


def say(line):
    """In one piece: cases run side by side."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


def port_numbers():
    """Below the range that connections take theirs from, so that none is taken by one."""
    while True:
        yield from random.sample(range(12000, 32000), 20000)


NUMBERS, NUMBERS_LOCK = port_numbers(), threading.Lock()


def free_port(kind=socket.SOCK_STREAM):
    while True:
        with NUMBERS_LOCK:
            number = next(NUMBERS)
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind((HOST, number))
                return number
            except OSError:
                pass


def noise(length, seed):
    return random.Random(seed).randbytes(length)


def waiting_bytes():
    """The machine's TCP connections with bytes that nobody has read, or that did not go:
    of a case that waited in vain they tell who is asleep."""
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table][1:]
    return [f"    {row[1]} to {row[2]} state {row[3]}, out:in {row[4]}, timer {row[5]}"
            for row in rows if row[3] != "0A" and row[4] != "00000000:00000000"][:10]


class Program:
    """A program under test: killed at the end of its case if it still runs."""

    def __init__(self, engine, *command):
        environment = dict(os.environ)
        if engine is not None:
            environment["PROA_ENGINE"] = engine
        self.process = subprocess.Popen(
            WINE + [str(word) for word in command], env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        ended = self.process.poll()
        if ended is None and kind is not None:
            say("\n".join(["its bytes when a case FAILed:", *waiting_bytes()]))
        if ended is None:
            self.process.kill()
        _, error = self.process.communicate()
        if kind is not None and ended is not None:
            say(f"a program had ended with {ended} when its case failed: {error.decode()!r}")

    def listening(self):
        """The port that an example prints when it was given port 0."""
        line = self.process.stdout.readline().decode().replace("\r", "")
        match = re.fullmatch(r"listening on 127\.0\.0\.1:(\d+)\n", line)
        if match is None:
            self.process.kill()
            error = self.process.communicate()[1].decode()
            raise AssertionError(f"no line 'listening on', but {line!r} {error!r}")
        return int(match[1])

    def reachable(self, port):
        """Waits until a program that prints nothing listens."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self.process.poll() is None:
            try:
                socket.create_connection((HOST, port), 1).close()
                return port
            except OSError:
                time.sleep(0.02)
        raise AssertionError(f"nothing listens on {port}; exit {self.process.poll()}")

    def ends(self, code, number=None):
        """Sends a signal if given; checks the exit code, returns (stdout, stderr)."""
        if number is not None:
            expect(self.process.poll() is None, f"ended early with {self.process.poll()}")
            # What wine makes Ctrl-C of; SIGTERM it does not pass on.
            self.process.send_signal(signal.SIGINT if WINE else number)
        out, error = self.process.communicate(timeout=PATIENCE)
        if WINE:
            # Text there ends its lines in two bytes; and a program that does not
            # ask for Ctrl-C ends by it with a code of the system's own.
            out, error = out.replace(b"\r\n", b"\n"), error.replace(b"\r\n", b"\n")
            expect(code < 0 or self.process.returncode == code,
                   f"exit {self.process.returncode}, not {code}: {error.decode()!r}")
            return out.decode(), error.decode()
        expect(self.process.returncode == code,
               f"exit {self.process.returncode}, not {code}: {error.decode()!r}")
        return out.decode(), error.decode()

    def memory(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            return int(re.search(r"VmRSS:\s+(\d+) kB", status.read())[1]) * 1024


def connect(port):
    return socket.create_connection((HOST, port), PATIENCE)


def read_all(sock):
    """All until the end of the stream."""
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


def read_exactly(sock, length):
    parts, missing = [], length
    while missing > 0:
        part = sock.recv(min(missing, 65536))
        expect(part, f"the stream ended {missing} bytes early")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def exchange(port, length, seed, half_close=False):
    """Sends noise from a thread, reads it back, and compares."""
    sent = noise(length, seed)
    with connect(port) as sock:
        def push():
            sock.sendall(sent)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
        pusher = threading.Thread(target=push)
        pusher.start()
        got = read_all(sock) if half_close else read_exactly(sock, length)
        pusher.join()
    expect(got == sent, f"{len(got)} bytes came back, not the {length} sent")


def reset(port):
    """A connection that ends with RST while the server answers."""
    sock = connect(port)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.sendall(b"x" * 100000)
    sock.close()


def check_echo(port):
    for length in (1, 4095, 4096, 4097, 300000):
        exchange(port, length, length)
    exchange(port, 200000, 1, half_close=True)
    for _ in range(4):
        reset(port)
    # Wine has one server, to which hundreds through a proxy by select() are seconds of
    # work: on a busy machine more than a dial has.
    many = [connect(port) for _ in range(50 if WINE else 200)]
    for turn in range(3):
        for i, sock in enumerate(many):
            sock.sendall(b"%d:%d" % (turn, i))
        for i, sock in enumerate(many):
            word = b"%d:%d" % (turn, i)
            expect(read_exactly(sock, len(word)) == word, "another connection's bytes")
    for sock in many:
        sock.close()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for job in [pool.submit(exchange, port, 50000, seed) for seed in range(24)]:
            job.result()


def echo_example(where, engine, name):
    with Program(engine, where.example(name), f"{HOST}:0") as program:
        port = program.listening()
        check_echo(port)
        with connect(port) as left_open, connect(port):
            left_open.sendall(b"still here")
            expect(read_exactly(left_open, 10) == b"still here", "echo before the end")
            program.ends(0, signal.SIGTERM)
            expect(left_open.recv(1) == b"", "the end of the connection")
    with Program(engine, where.example(name), f"{HOST}:0") as program:
        program.listening()
        program.ends(0, signal.SIGINT)


def echo_dispatch(where, engine):
    echo_example(where, engine, "echo_dispatch")


def echo_dequeue(where, engine):
    echo_example(where, engine, "echo_dequeue")


def echo_refuses(where, engine):
    for name in ("echo_dispatch", "echo_dequeue", "udp_echo"):
        with Program(engine, where.example(name), "no address") as program:
            _, error = program.ends(1)
            expect("no address" in error, f"what is wrong: {error!r}")
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with Program(engine, where.example("echo_dispatch"), f"{HOST}:{port}") as program:
            program.ends(1)


class Server:
    """A listener of ours in threads: `serve(connection)` for each."""

    def __init__(self, serve, send_buffer=None):
        self.listener = socket.create_server((HOST, 0), backlog=512)
        if send_buffer is not None:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        self.port = self.listener.getsockname()[1]
        self.serve = serve
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.guard, args=(sock,), daemon=True).start()

    def guard(self, sock):
        sock.settimeout(PATIENCE)
        with sock:
            try:
                self.serve(sock)
            except OSError:
                pass  # the client's side tells


def serve_echo(sock):
    while data := sock.recv(65536):
        sock.sendall(data)


def serve_digest(sock):
    """Answers only when the other direction has ended."""
    sock.sendall(hashlib.sha256(read_all(sock)).digest())


def deadline(where, engine):
    """Of the whole: a server that goes on for ever, byte by byte, does not put it off."""
    def silent(sock):
        sock.recv(1, socket.MSG_WAITALL)
        gone.wait(PATIENCE)

    def slow(sock):
        while not gone.wait(0.05):
            sock.sendall(b"x")

    for serve in (silent, slow):
        gone = threading.Event()
        with Server(serve) as server:
            begun = time.monotonic()
            with Program(engine, where.example("tcp_client"), HOST, server.port, "hello", 0.4) as program:
                out, error = program.ends(1)
            gone.set()
            expect(time.monotonic() - begun >= 0.4, "it did not wait for its deadline")
            expect("timed out" in error, error)
            expect(out.strip("x") == "", f"{out!r} came")


def tcp_client(where, engine):
    def answer(sock):
        sock.sendall(b"you said: " + read_all(sock) + noise(200000, 3).hex().encode())
    with Server(answer) as server:
        for host in (HOST, "localhost"):
            with Program(engine, where.example("tcp_client"), host, server.port, "hello") as program:
                out, _ = program.ends(0)
            expect(out == "you said: hello\n" + noise(200000, 3).hex(), f"{len(out)} bytes")
    deadline(where, engine)
    with Program(engine, where.example("tcp_client"), HOST, free_port(), "hello") as program:
        _, error = program.ends(1)
        expect(error.startswith("client: "), error)
    with Program(engine, where.example("tcp_client"), HOST, "no-such-service", "x") as program:
        program.ends(1)
    with Program(engine, where.example("tcp_client")) as program:
        program.ends(2)


def copy_with(program_path, engine, usage_code):
    with tempfile.TemporaryDirectory() as folder:
        source, target = os.path.join(folder, "from"), os.path.join(folder, "to")
        for length in (0, 1, 100000, 8 * 128 * 1024, 16 * 256 * 1024, 9000017):
            data = noise(length, length)
            with open(source, "wb") as file:
                file.write(data)
            with open(target, "wb") as file:
                file.write(b"longer than what will be there" * 3)
            with Program(engine, program_path, source, target) as program:
                program.ends(0)
            with open(target, "rb") as file:
                expect(file.read() == data, f"a copy of {length} bytes")
        with Program(engine, program_path, os.path.join(folder, "none"), target) as program:
            _, error = program.ends(1)
            expect(error.startswith("copy: "), error)
        with Program(engine, program_path, source, os.path.join(folder, "no", "folder")) as program:
            program.ends(1)
        with Program(engine, program_path) as program:
            program.ends(usage_code)


def file_copy(where, engine):
    copy_with(where.example("file_copy"), engine, 2)


def udp_talk(port, data):
    """One datagram there and back; loopback loses none while buffers have room."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect((HOST, port))
        sock.send(data)
        return sock.recv(65536)


def udp_echo(where, engine):
    with Program(engine, where.example("udp_echo"), f"{HOST}:0") as program:
        port = program.listening()
        for length in (0, 1, 512, 2047, 2048):
            expect(udp_talk(port, noise(length, length)) == noise(length, length), f"{length} bytes")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect((HOST, port))
            sock.send(b"too long" * 1000)  # cut, so not echoed
            for turn in range(20):
                for i in range(50):
                    sock.send(b"%d:%d" % (turn, i))
                got = {sock.recv(2048) for _ in range(50)}
                expect(got == {b"%d:%d" % (turn, i) for i in range(50)}, "a burst")
        gone = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        gone.sendto(b"answer nobody", (HOST, port))
        gone.close()  # the answer may meet "port unreachable"
        expect(udp_talk(port, b"alive") == b"alive", "echo after an unreachable peer")
        program.ends(0, signal.SIGTERM)


def check_slow_reader(where, program, port, server_sent):
    """The writer must come to a halt while its reader sleeps, the proxy must not
    grow, and all bytes must be there in the end."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.settimeout(PATIENCE)
        sock.connect((HOST, port))
        last, still = -1, 0
        until = time.monotonic() + PATIENCE
        while still < 5 and time.monotonic() < until:
            time.sleep(0.1)
            still = still + 1 if server_sent() == last and last > 0 else 0
            last = server_sent()
        expect(still == 5, f"the writer was never stopped: {last} bytes")
        expect(last < FLOOD, "the writer got rid of all: nothing held it back")
        if not where.sanitized:
            expect(program.memory() < 48 << 20, f"the proxy holds {program.memory()} bytes")
        digest, length = hashlib.sha256(), 0
        while data := sock.recv(1 << 20):
            digest.update(data)
            length += len(data)
    expect(length == FLOOD, f"{length} bytes of {FLOOD} came")
    expect(digest.digest() == hashlib.sha256(FLOOD_BLOCK * (FLOOD // len(FLOOD_BLOCK))).digest(),
           "other bytes came")


FLOOD_BLOCK = noise(1 << 18, 4)
FLOOD = 128 << 20


def check_proxy(where, engine, path, code):
    # A port for each: a process with a ring that is killed lets its listener go
    # some time after its end, when the kernel has taken the ring down.
    sent = [0]

    def flood(sock):
        for _ in range(FLOOD // len(FLOOD_BLOCK)):
            view = memoryview(FLOOD_BLOCK)
            while view:
                n = sock.send(view[:32768])
                sent[0] += n
                view = view[n:]

    front = free_port()
    with Server(serve_echo) as server, Program(engine, path, f"{HOST}:{front}", f"{HOST}:{server.port}") as program:
        program.reachable(front)
        check_echo(front)
        with connect(front) as left_open:
            left_open.sendall(b"open")
            expect(read_exactly(left_open, 4) == b"open", "through the proxy")
            program.ends(code, signal.SIGTERM)
    front = free_port()
    with Server(serve_digest) as server, Program(engine, path, f"{HOST}:{front}", f"{HOST}:{server.port}") as program:
        program.reachable(front)
        for length in (0, 1, 1000000):
            with connect(front) as sock:
                sock.sendall(noise(length, length))
                sock.shutdown(socket.SHUT_WR)
                expect(read_all(sock) == hashlib.sha256(noise(length, length)).digest(),
                       f"an answer after half-close, {length} bytes")
    front = free_port()
    with Server(flood, send_buffer=65536) as server, \
            Program(engine, path, f"{HOST}:{front}", f"{HOST}:{server.port}") as program:
        # reachable() would start a flood: let the kernel's listener tell.
        until = time.monotonic() + PATIENCE
        while not listens(front) and time.monotonic() < until:
            time.sleep(0.02)
        check_slow_reader(where, program, front, lambda: sent[0])
    front = free_port()
    with Program(engine, path, f"{HOST}:{front}", f"{HOST}:{free_port()}") as program:
        program.reachable(front)
        with connect(front) as sock:
            sock.settimeout(PATIENCE)
            try:
                expect(sock.recv(1) == b"", "bytes from nowhere")
            except ConnectionResetError:
                pass
        program.ends(code, signal.SIGTERM)


def listens(port):
    with open("/proc/net/tcp", encoding="ascii") as table:
        return re.search(rf":{port:04X} 00000000:0000 0A ", table.read()) is not None


def proxy(where, engine):
    check_proxy(where, engine, where.example("proxy"), 0)


# ---- tests/programs ----------------------------------------------------------


def a_echo(where, engine):
    port = free_port()
    with Program(engine, where.program("a_echo"), f"{HOST}:{port}") as program:
        program.reachable(port)
        check_echo(port)
        program.ends(-signal.SIGTERM, signal.SIGTERM)


def b_iocp(where, engine):
    """Shared ports give PROA_ENOSYS in this version: a clean exit, at once."""
    with Program(engine, where.program("b_iocp"), f"{HOST}:{free_port()}") as program:
        out, error = program.ends(1)
        expect(out == "" and error == "", f"{out!r} {error!r}")


def c_proxy(where, engine):
    check_proxy(where, engine, where.program("c_proxy"), -signal.SIGTERM)


def f_dns(where, engine):
    port = free_port(socket.SOCK_DGRAM)
    with Program(engine, where.program("f_dns"), f"{HOST}:{port}") as program:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((HOST, port))
            sock.settimeout(0.2)
            answer, until = None, time.monotonic() + PATIENCE
            while answer is None and time.monotonic() < until:
                try:
                    sock.send(struct.pack(">HHHHHH", 1, 0x0100, 1, 0, 0, 0))
                    answer = sock.recv(512)
                except OSError:
                    time.sleep(0.02)  # not there yet
            expect(answer == struct.pack(">HHHHHH", 1, 0x8102, 1, 0, 0, 0), f"{answer!r}")
            sock.settimeout(PATIENCE)
            sock.send(b"short")
            sock.send(b"x" * 600)  # both without an answer
            for i in range(1000):
                query = struct.pack(">HHHHHH", i + 2, 0x0100, 1, 0, 0, 0) + noise(i % 400, i)
                sock.send(query)
                answer = sock.recv(512)
                while answer[:2] == b"\0\1":
                    answer = sock.recv(512)  # of a query sent twice above
                expect(answer == query[:2] + b"\x81\2" + query[4:], f"answer {i}")
        program.ends(-signal.SIGTERM, signal.SIGTERM)


def g_copy(where, engine):
    copy_with(where.program("g_copy"), engine, 1)


def h_supervisor(where, engine):
    if WINE:
        raise Skipped("its children are a shell's, and ended by SIGKILL")
    with Program(engine, where.program("h_supervisor")) as program:
        time.sleep(4.5)  # sh: runs 2 s, waits 1 s, and is started again
        begun = time.monotonic()
        out, error = program.ends(0, signal.SIGTERM)
        expect(time.monotonic() - begun < 4, "the end did not wait for the grace period")
    expect(error == "", error)
    expect(len(re.findall(r"^\[sh\] .*\d+:\d\d:\d\d", out, re.M)) == 2, f"two dates in {out!r}")
    expect("sh: code 0 signal 0\n" in out, f"sh's own end in {out!r}")
    expect(out.count("sleep: code 0 signal 15\n") == 1, f"sleep was ended: {out!r}")


def j_tls(where, engine):
    path = where.program("j_tls")
    if not os.path.exists(path):
        raise Skipped("built without OpenSSL")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    port = free_port()

    def talk(seed):
        data = noise(150000, seed)
        with context.wrap_socket(connect(port)) as sock:
            for at in range(0, len(data), 10000):
                sock.sendall(data[at:at + 10000])
                expect(read_exactly(sock, 10000) == data[at:at + 10000], "TLS echo")
            sock.unwrap()  # both sides say that they are done

    with Program(engine, path, f"{HOST}:{port}") as program:
        program.reachable(port)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for job in [pool.submit(talk, seed) for seed in range(16)]:
                job.result()
        with connect(port) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n" * 10)
            try:
                read_all(sock)  # an alert, then the end
            except ConnectionResetError:
                pass
        with context.wrap_socket(connect(port)) as sock:
            sock.sendall(b"open")
            expect(read_exactly(sock, 4) == b"open", "TLS echo")
            program.ends(0, signal.SIGTERM)


def l_timers(where, engine):
    """Built to end after 2 s: each period of each timer is a tick or a missed one."""
    begun = time.monotonic()
    with Program(engine, where.program("l_timers")) as program:
        out, _ = program.ends(0)
    took = time.monotonic() - begun
    match = re.fullmatch(r"(\d+) ticks, (\d+) missed\n", out)
    expect(match is not None, repr(out))
    total = int(match[1]) + int(match[2])
    least, most = (sum(int(span * 1000 / (100 + i % 900)) for i in range(100000)) for span in (2, took))
    # The timers were started one after another, the last a while after the
    # first, and `end` after all of them: no period can be missing.
    expect(least * 0.99 <= total <= most, f"{total} periods, not {least} to {most}")


def m_jobs(where, engine):
    with Program(engine, where.program("m_jobs")) as program:
        out, _ = program.ends(0)
    match = re.fullmatch(r"(\d+) addresses\n", out)
    expect(match is not None and 1 <= int(match[1]) <= 4, repr(out))


def raw_iocp(where, _engine):
    """Windows' completion ports without proa: what the book compares with."""
    port = free_port()
    with Program(None, where.program("raw_iocp"), port) as program:
        program.reachable(port)
        check_echo(port)
        program.ends(-signal.SIGTERM, signal.SIGTERM)


# ---- documents ---------------------------------------------------------------


def blocks(path):
    """(line, marker, code) of each C block; the marker is the comment above it."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    for match in re.finditer(r"(?:^<!-- (from [^\n]*) -->\n)?^```c\n(.*?)^```$", text, re.M | re.S):
        yield text[:match.start(2)].count("\n"), match[1], match[2]


def compiled(where, folder, code, *arguments):
    source = os.path.join(folder, "block.c")
    with open(source, "w", encoding="utf-8") as file:
        file.write(code)
    run = subprocess.run(
        where.compiler + ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I", where.include, source, *arguments],
        capture_output=True, timeout=PATIENCE, check=False)
    expect(run.returncode == 0, run.stderr.decode())


def readme_echo(where, engine):
    """The first C block of the README compiles as printed, and is an echo server."""
    code = next(blocks(os.path.join(where.source, "README.md")))[2]
    address, port = "127.0.0.1:7000", free_port()
    expect(code.count(address) == 1, f"one address {address}")
    with tempfile.TemporaryDirectory() as folder:
        compiled(where, folder, code, "-fsyntax-only")
        path = os.path.join(folder, "echo" + where.suffix)
        compiled(where, folder, code.replace(address, f"{HOST}:{port}"), "-o", path, where.library, *where.link)
        with Program(engine, path) as program:
            program.reachable(port)
            check_echo(port)
            program.ends(-signal.SIGTERM, signal.SIGTERM)


def documents_compile(where, _engine):
    """A block marked "from FILE" stands in that file, which is compiled; any
    other compiles by itself."""
    book = os.path.join(where.source, "docs", "book")
    paths = [os.path.join(book, name) for name in sorted(os.listdir(book)) if name.endswith(".md")]
    paths.append(os.path.join(where.source, "README.md"))
    count = 0
    for path in paths:
        for line, marker, code in blocks(path):
            count += 1
            if marker is not None:
                with open(os.path.join(where.source, marker.removeprefix("from ")), encoding="utf-8") as file:
                    text = file.read()
                for piece in code.split("\n/* ... */\n"):
                    expect(piece.strip("\n") in text, f"{path}:{line} is not in {marker[5:]}:\n{piece}")
                continue
            if WINE and "#include <poll.h>" in code:
                print(f"skip {os.path.basename(path)}:{line}: a block of POSIX's own calls")
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    compiled(where, folder, code, "-fsyntax-only", "-Wno-unused-function")
                except AssertionError as error:
                    raise AssertionError(f"{path}:{line}: {error}") from None
    expect(count >= 10, f"{count} blocks found")


# ---- running -----------------------------------------------------------------

CASES = (
    echo_dispatch, echo_dequeue, echo_refuses, tcp_client, file_copy, udp_echo, proxy, a_echo, b_iocp,
    c_proxy, f_dns, g_copy, h_supervisor, j_tls, l_timers, m_jobs, readme_echo)


class Where:
    def __init__(self, options):
        self.examples, self.programs = options.examples, options.programs
        self.source, self.library = options.source, options.library
        self.include = os.path.join(options.source, "include")
        self.compiler, self.link = options.compiler.split(), options.link.split()
        self.sanitized = "-fsanitize" in options.compiler
        self.suffix = ".exe" if WINE else ""

    def example(self, name):
        return os.path.join(self.examples, "example_" + name + self.suffix)

    def program(self, name):
        return os.path.join(self.programs, "program_" + name + self.suffix)


def refused_by_kernel():
    """Why io_uring_setup(2) can't work here, or None. 425 on every platform but alpha."""
    libc = ctypes.CDLL(None, use_errno=True)
    parameters = ctypes.create_string_buffer(120)
    fd = libc.syscall(425, 4, parameters)
    if fd >= 0:
        os.close(fd)
        return None
    return os.strerror(ctypes.get_errno())


def run(case, where, engine):
    begun = time.monotonic()
    name = f"{engine or '-':8} {case.__name__}"
    try:
        case(where, engine)
        verdict, detail = "ok", ""
    except Skipped as reason:
        verdict, detail = "skip", f": {reason}"
    except Exception:  # pylint: disable=broad-except; a case may fail in any way
        verdict, detail = "FAIL", "\n" + traceback.format_exc()
    say(f"{verdict:4} {name} ({time.monotonic() - begun:.1f} s){detail}")
    return verdict


@contextlib.contextmanager
def wine_kept():
    """Wine starts processes of its own with the first program, and they keep what that
    has as its standard output: so the first is one whose output nobody reads to its
    end, and it stays."""
    if not WINE:
        yield
        return
    with subprocess.Popen([*WINE, "cmd.exe"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as shell:
        time.sleep(2)
        yield
        shell.stdin.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", required=True, help="folder of the built examples")
    parser.add_argument("--programs", required=True, help="folder of the built programs")
    parser.add_argument("--source", required=True, help="root of the source tree")
    parser.add_argument("--library", required=True, help="libproa.a")
    parser.add_argument("--compiler", default="cc", help="with flags that the library needs")
    parser.add_argument("--link", default="-lpthread", help="what libproa.a needs")
    parser.add_argument("--without", default="", help="engines that were not built, by commas")
    parser.add_argument("--only", default="", help="cases or engines to run, by commas")
    parser.add_argument("--wine", default="", help="runs programs that were built for Windows")
    options = parser.parse_args()
    WINE.extend(options.wine.split())
    where = Where(options)
    known = WINDOWS_ENGINES if WINE else ENGINES
    engines = [name for name in known if name not in options.without.split(",")]
    if "io_uring" in engines and refused_by_kernel() is not None:
        print(f"skip io_uring: the kernel says {refused_by_kernel()}")
        engines.remove("io_uring")
    once = [documents_compile] + ([raw_iocp] if WINE else [])
    jobs = [(case, None) for case in once] + [(case, engine) for case in CASES for engine in engines]
    only = set(filter(None, options.only.split(",")))
    if only:
        jobs = [job for job in jobs if all(
            not (only & names) or key in only
            for key, names in ((job[0].__name__, {c.__name__ for c in (*CASES, *once)}),
                               (job[1], set(known))))]
    with wine_kept(), concurrent.futures.ThreadPoolExecutor(3) as pool:
        verdicts = list(pool.map(lambda job: run(job[0], where, job[1]), jobs))
    print(f"{verdicts.count('ok')} passed, {verdicts.count('FAIL')} failed"
          + (f", {verdicts.count('skip')} skipped" if "skip" in verdicts else ""))
    return 1 if "FAIL" in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
