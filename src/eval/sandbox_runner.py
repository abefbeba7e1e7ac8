"""Runs one program that comes over standard input, under limits of memory, time and reach (see sandbox.ts).

An audit hook cannot be taken off again; it refuses whatever is not on its list. It keeps honest mistakes away from the
machine, but Python's makers do not call hooks a sandbox: judge models that you do not trust inside a container.
"""
import json
import os
import sys
import sysconfig

job = json.load(sys.stdin)

try:
    import resource
    for kind, most in (("RLIMIT_AS", job["bytes"]), ("RLIMIT_CPU", job["seconds"]), ("RLIMIT_FSIZE", 0), ("RLIMIT_CORE", 0)):
        try:
            resource.setrlimit(getattr(resource, kind), (most, most))
        except (ValueError, OSError):
            pass        # macOS has no limit of the address space
except ImportError:
    pass                # Windows

LIBRARY = tuple({os.path.realpath(sysconfig.get_paths()[k]) + os.sep for k in ("stdlib", "platstdlib")}
                | {sysconfig.get_paths()["stdlib"] + os.sep})
ALLOWED = ("import", "exec", "compile", "marshal.", "code.__new__", "function.__new__", "object.__", "builtins.", "sys._getframe",
           "sys.set_asyncgen", "sys.excepthook", "sys.unraisablehook", "array.", "gc.", "cpython.", "time.", "os.listdir",
           "os.scandir", "os.putenv", "_thread.start_new_thread", "_thread.start_joinable_thread", "re.", "signal.", "mmap.__new__")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def guard(event, args):
    if event == "open":
        path, mode, flags = args
        writes = (mode is not None and any(c in "wax+" for c in mode)) or (isinstance(flags, int) and flags & WRITING)
        inside = isinstance(path, str) and os.path.normpath(path).startswith(LIBRARY)
        if inside and not writes:
            return
        raise PermissionError(f"no access to {path!r}")
    if not event.startswith(ALLOWED):
        raise PermissionError(f"not allowed: {event}")


try:
    program = compile(job["code"], "program.py", "exec")
    sys.addaudithook(guard)
    exec(program, {"__name__": "__main__"})
except BaseException as error:      # SystemExit too: a program that leaves early has not passed
    print(f"{type(error).__name__}: {error}"[:2000], file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)
sys.stdout.write(f"\n{job['pass']}\n")
sys.stdout.flush()
os._exit(0)
