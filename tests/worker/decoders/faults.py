"""Faults of native libraries, for the start of every Python process. Images choose among them by their size or URL."""

from __future__ import annotations

CRASH, CRASH_ONCE, HANG, NO_MEMORY, SLOW = (61, 61), (62, 61), (63, 61), (65, 61), (66, 61)
"""Sizes of the images on which the image libraries crash, hang, find no memory or take half a second."""

KILLER, KILLER_ONCE = "kills-libcurl", "kills-libcurl-once"
"""Names of the images on whose headers libcurl crashes."""

FAULTY_LIBRARIES = f"""
import ctypes, os, pathlib, pycurl, simplejpeg, time
from PIL import Image

folder = pathlib.Path(__file__).parent
right_resize, right_header = Image.Image.resize, simplejpeg.decode_jpeg_header

def crash():
    ctypes.string_at(0)

def crash_once(name):
    try:
        (folder / name).touch(exist_ok=False)
    except FileExistsError:
        return
    crash()

def fail(size):
    if size == {CRASH}:
        crash()
    if size == {CRASH_ONCE}:
        crash_once("crashed")
    if size == {SLOW}:
        time.sleep(0.5)
    if size == {NO_MEMORY}:
        raise MemoryError
    while size == {HANG}:
        pass

def resize(image, *arguments, **named):
    fail(image.size)
    if image.width * image.height < 30_000_000:
        return right_resize(image, *arguments, **named)
    began = time.monotonic()
    time.sleep(0.3)
    resized = right_resize(image, *arguments, **named)
    with open(folder / "large", "a") as file:
        file.write(f"{{os.getpid()}} {{began}} {{time.monotonic()}}\\n")
    return resized

def decode_header(data, *arguments, **named):
    height, width, *rest = right_header(data, *arguments, **named)
    fail((width, height))
    return height, width, *rest

Image.Image.resize, simplejpeg.decode_jpeg_header = resize, decode_header

asked = {{}}

class Curl(pycurl.Curl):
    def setopt(self, option, value):
        if option == pycurl.URL:
            asked[id(self)] = value.rpartition("/")[2]
        if option == pycurl.HEADERFUNCTION:
            super().setopt(option, lambda line: fail_at_headers(asked[id(self)]) or value(line))
        else:
            super().setopt(option, value)

def fail_at_headers(name):
    if name.startswith("{KILLER_ONCE}"):
        crash_once(name)
    elif name.startswith("{KILLER}"):
        crash()

pycurl.Curl = Curl
"""
"""Also writes down when each large image was resized, and by which process, in a file `large` beside itself."""

FORK_THAT_FAILS = """
import os, pathlib, signal, sys

deaths = pathlib.Path(__file__).with_name("deaths")
right_fork = os.fork

def fork():
    left = len(deaths.read_bytes()) if deaths.exists() else 0
    if left:
        deaths.write_bytes(bytes(left - 1))
    process = right_fork()
    if left and not process:
        os.kill(os.getpid(), signal.SIGKILL)
    return process

if "worker.decoders.server" in sys.orig_argv:
    os.fork = fork
"""
