"""in_unit.py UNIT PROGRAM [ARGUMENT...]: runs a program under the filter of system calls and the capabilities of a unit of systemd.

Groups of calls are what the systemd of this machine has in them. Ends with 77 if this machine lacks what it takes.
"""
import ctypes
import os
import subprocess
import sys

ALLOW, KILL_PROCESS = 0x7FFF0000, 0x80000000
PR_CAPBSET_DROP, LAST_CAPABILITY = 24, 63


def calls(name):
    """Returns the calls of a group, or the one that is named."""
    if not name.startswith("@"):
        return {name}
    said = subprocess.run(["systemd-analyze", "--no-pager", "syscall-filter", name], capture_output=True, text=True, check=True)
    lines = [line.strip() for line in said.stdout.splitlines()[1:]]
    return set().union(*[calls(line) for line in lines if line and not line.startswith("#")])


def settings(unit, key):
    with open(unit, encoding="utf-8") as lines:
        return [line.rstrip("\n").split("=", 1)[1] for line in lines if line.startswith(key + "=")]


def allowed(filters):
    """Returns what a list of SystemCallFilter= leaves, as systemd.exec(5) has it: the first one begins with nothing."""
    found = calls("@default")
    for words in filters:
        denies = words.startswith("~")
        for name in words.removeprefix("~").split():
            found = found - calls(name) if denies else found | calls(name)
    return found


def filter_calls(names):
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(KILL_PROCESS))
    for name in names:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        # Negative ones this machine doesn't have.
        if number >= 0 and seccomp.seccomp_rule_add(context, ALLOW, number, 0) != 0:
            sys.exit(f"can't allow {name}")
    if seccomp.seccomp_load(context) != 0:
        sys.exit("can't load the filter")


def main():
    unit, program = sys.argv[1], sys.argv[2:]
    try:
        names = allowed(settings(unit, "SystemCallFilter"))
        libc = ctypes.CDLL(None)
        ctypes.CDLL("libseccomp.so.2")
    except (OSError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        sys.exit(77)
    if os.geteuid() == 0 and settings(unit, "CapabilityBoundingSet") == [""]:
        for capability in range(LAST_CAPABILITY + 1):
            # Fails for those that this kernel doesn't know.
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    filter_calls(names)
    os.execv(program[0], program)


main()
