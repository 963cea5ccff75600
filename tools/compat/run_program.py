"""`run_program.py FILE [ARGUMENT...]` runs a program as Python would, but leaves as soon as it has ended. Taking the interpreter apart while
the SDK's threads are inside native code now and then aborts the process, after all that the program did was done."""
import os
import runpy
import sys

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
