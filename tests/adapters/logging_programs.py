"""Programs that log, print and warn in odd ways. Each must show the same by itself and in a step.

Of each: what runs first, outside of a step, up to a line `---`; what the step does; and lines that its log must have.
"""

from __future__ import annotations

HEAD = """
import asyncio, contextlib, io, logging, logging.config, logging.handlers, queue, sys, tempfile, warnings
from concurrent.futures import ThreadPoolExecutor
lib = logging.getLogger("a.lib")
ready = lambda: None
"""
PROGRAMS: dict[str, tuple[str, list[str]]] = {
    "no-configuration": (
        r"""
lib.info('hidden'); lib.warning('shown'); lib.debug('no')
""",
        ["INFO    a.lib: hidden", "WARNING a.lib: shown"],
    ),
    "basic-config-before": (
        r"""
ready = lambda: logging.basicConfig(
    level=logging.WARNING, format='%(name)s %(filename)s:%(lineno)d %(message)s'
)
---
lib.info('hidden'); lib.error('shown %s', 1)
""",
        ["INFO    a.lib: hidden", "ERROR   a.lib: shown 1"],
    ),
    "basic-config-in-the-step": (
        r"""
lib.info('hidden'); logging.basicConfig(level=logging.INFO, stream=sys.stdout); lib.info('shown')
""",
        ["INFO    a.lib: hidden", "INFO    a.lib: shown"],
    ),
    "a-handler-that-prints": (
        r"""
class H(logging.Handler):
    def emit(self, record): print('H', record.getMessage())
lib.addHandler(H()); lib.warning('one')
logging.getLogger().addHandler(logging.StreamHandler()); lib.error('two')
""",
        ["WARNING a.lib: one", "ERROR   a.lib: two"],
    ),
    "no-propagation": (
        r"""
lib.propagate = False; lib.info('hidden'); lib.warning('lost')
""",
        ["INFO    a.lib: hidden", "WARNING a.lib: lost"],
    ),
    "a-guard": (
        r"""
if lib.isEnabledFor(logging.INFO): lib.info('guarded')
if lib.isEnabledFor(logging.DEBUG): print('no')
""",
        ["INFO    a.lib: guarded"],
    ),
    "a-guard-and-then-a-level": (
        r"""
lib.isEnabledFor(logging.INFO); logging.basicConfig(level=logging.INFO); lib.info('shown')
""",
        ["INFO    a.lib: shown"],
    ),
    "a-record-that-was-made-elsewhere": (
        r"""
logging.basicConfig(level=logging.ERROR)
lib.handle(logging.makeLogRecord({'name': 'a.lib', 'levelno': 20, 'levelname': 'INFO', 'msg': 'handled'}))
""",
        ["INFO    a.lib: handled"],
    ),
    "an-adapter": (
        r"""
logging.LoggerAdapter(lib, {'k': 1}).info('adapted'); lib.info('more', extra={'name_': 2})
""",
        ["INFO    a.lib: adapted", "INFO    a.lib: more"],
    ),
    "a-logger-class": (
        r"""
class Own(logging.Logger):
    def makeRecord(self, *args, **kwargs):
        made = super().makeRecord(*args, **kwargs); made.msg = 'own ' + made.msg; return made
logging.setLoggerClass(Own); logging.getLogger('own').info('a'); logging.getLogger('own').warning('b')
""",
        ["INFO    own: own a", "WARNING own: own b"],
    ),
    "a-logger-filter": (
        r"""
def once(record, seen=[]):
    seen.append(1); print('filtered', len(seen)); return len(seen) != 2
lib.addFilter(once); lib.warning('a'); lib.warning('b'); lib.warning('c')
""",
        ["WARNING a.lib: a", "INFO    stdout: filtered 3", "WARNING a.lib: c"],
    ),
    "disabled-by-a-configuration": (
        r"""
lib.info('a'); logging.config.dictConfig({'version': 1}); lib.info('b'); lib.error('c')
""",
        ["INFO    a.lib: a", "INFO    a.lib: b", "ERROR   a.lib: c"],
    ),
    "exceptions-and-formats": (
        r"""
class F(logging.Formatter):
    def formatException(self, info): return 'SHORT'
h = logging.StreamHandler(sys.stdout); h.setFormatter(F('%(message)s')); lib.addHandler(h)
try: 1 / 0
except ZeroDivisionError: lib.exception('failed')
""",
        ["ERROR   a.lib: failed", "ZeroDivisionError: division by zero"],
    ),
    "a-queue": (
        r"""
q = queue.Queue(); l = logging.handlers.QueueListener(q, logging.StreamHandler(sys.stdout)); l.start()
lib.addHandler(logging.handlers.QueueHandler(q)); lib.warning('queued'); l.stop()
""",
        ["WARNING a.lib: queued"],
    ),
    "redirected-in-the-step": (
        r"""
with contextlib.redirect_stdout(io.StringIO()) as f: print('caught')
print(len(f.getvalue()))
""",
        ["INFO    stdout: 7"],
    ),
    "parts-and-returns": (
        r"""
print('a', end=''); print('b', end='', flush=True); print('c')
for n in range(3): sys.stderr.write(f'\r{n}0 %')
sys.stderr.write('\n')
sys.stdout.writelines(['x\n', 'y'])
""",
        ["INFO    stdout: abc", "INFO    stderr: 20 %", "INFO    stdout: x", "INFO    stdout: y"],
    ),
    "colours": (
        r"""
print('\x1b[1;31mred\x1b[0m plain')
""",
        ["INFO    stdout: red plain"],
    ),
    "bytes": (
        r"""
sys.stdout.flush(); sys.stdout.buffer.write(b'raw\n'); sys.stdout.flush(); print('text')
""",
        ["INFO    stdout: text"],
    ),
    "warnings": (
        r"""
for n in range(3): warnings.warn(f'w')
logging.captureWarnings(True); warnings.warn('logged'); logging.captureWarnings(False)
warnings.showwarning = lambda m, *_: print('SHOWN', m); warnings.warn('replaced')
""",
        ["WARNING warnings: UserWarning: w (", "WARNING warnings: UserWarning: logged (", "UserWarning: replaced ("],
    ),
    "it-stays-the-same-object": (
        r"""
print(type(sys.stdout).__name__, sys.stdout is sys.__stdout__, sys.stdout.fileno(), sys.stdout.encoding)
""",
        ["INFO    stdout: TextIOWrapper True 1 "],
    ),
    "not-a-text": (
        r"""
try: sys.stdout.write(b'x')
except TypeError as error: print(error)
""",
        ["INFO    stdout: write() argument must be str"],
    ),
}
