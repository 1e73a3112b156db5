"""Become another program, tied to the process that started us: `python config/launch.py [options] -- program arguments…`.

The supervisor's children start through it. A `preexec_fn` would run Python between fork and exec, which isn't safe beside threads;
this is a program of its own that prepares itself and then execs, so pid, group and command line are the child's.

    --parent PID     end when that process is gone: ask the kernel for a signal (PR_SET_PDEATHSIG, Linux), then check that the
                     parent still lives, for it may have died before we asked
    --signal NUMBER  which signal (default 15)
    --user NAME      drop to this user and its group first; without any privilege left behind
    --umask OCTAL    of the new program
    --nice NUMBER    how much it steps back behind other programs, 0 to 19

Standard library only, and no imports of ours: as another user the checkout may be out of reach.
"""

import argparse
import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(signal_number: int, parent: int | None = None) -> None:
    """Have the kernel send us `signal_number` when our parent ends; exit at once when it isn't `parent` any more.

    Must come after a change of user: that clears the request. It also follows the parent's *thread*, so parents start children
    from their main thread. Elsewhere than on Linux only the check is made.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal_number)
    if parent is not None and os.getppid() != parent:
        sys.exit("the parent ended before its child was started")


def become_user(name: str) -> None:
    import pwd

    entry = pwd.getpwnam(name)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    os.environ["HOME"] = "/"
    os.chdir("/")


def main() -> None:
    split = sys.argv.index("--")
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int)
    parser.add_argument("--signal", type=int, default=15)
    parser.add_argument("--user")
    parser.add_argument("--umask", type=lambda text: int(text, 8))
    parser.add_argument("--nice", type=int, default=0)
    options = parser.parse_args(sys.argv[1:split])
    command = sys.argv[split + 1 :]
    if options.umask is not None:
        os.umask(options.umask)
    os.nice(options.nice)
    if options.user:
        become_user(options.user)
    if options.parent:
        die_with_parent(options.signal, options.parent)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
