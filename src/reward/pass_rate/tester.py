# The process of the tests, where the solution is apart: it has the tests, a stand-in for the solution's entry point,
# and the channel to the host. No code of the solution runs here.
import builtins
import importlib
import symtable


class Stop(BaseException):
    """Ends a test that can't pass. No test catches it by catching Exception, nor asserts that it is raised."""


class Solution:
    def __init__(self, entry_point):
        self.entry_point = entry_point
        # Why the current test can't pass, whatever else happens in it; and why no test can be run.
        self.wrong, self.broken = None, None
        # Exceptions that the solution raised: what they say is not about the tests.
        self.raised = []
        try:
            hello = receive(5)
        except Exception:
            hello = {"failed": "it writes where it should not"}
        failed = hello.get("failed") if type(hello) is dict else "its process ended while it was loaded"
        self.failed = None if failed is None else short(failed)

    def stop(self, why):
        self.wrong = self.wrong or why
        raise Stop(why)

    def call(self, *args, **kwargs):
        try:
            request = {"args": [encode(arg) for arg in args], "kwargs": {k: encode(v) for k, v in kwargs.items()}}
            send(4, request)
        except OSError:
            self.stop("the solution's process has ended")
        except Exception as why:
            self.broken = (
                f"the tests give {self.entry_point} {short(why)}, which does not travel to the solution's process: use "
                'tests_run = "together"'
            )
            raise Stop(self.broken) from None
        try:
            answer = receive(5)
            if answer is None:
                self.stop("the solution's process has ended")
            if "value" in answer:
                return decode(answer["value"])
            error = None if "unpassable" in answer else self.exception(answer)
            why = short(answer.get("unpassable"))
        except Exception as error:
            self.stop(f"the solution's answer can't be read: {short(repr(error))}")
        if error is None:
            self.stop(
                f"the solution returns {why}, which does not travel between processes: where tests want that, use "
                'tests_run = "together"'
            )
        self.raised.append(error)
        raise error

    def exception(self, answer):
        """What the solution raised: of a class of the standard library, where it is one."""
        module, name = answer["raised"]
        args = tuple(decode(arg) for arg in answer["args"])
        known = sys.stdlib_module_names - {"unittest", "test"}
        found = None
        if type(module) is str and type(name) is str and module.partition(".")[0] in known:
            found = getattr(importlib.import_module(module), name, None)
        fit = isinstance(found, type) and issubclass(found, (Exception, SystemExit))
        if not fit or "unittest" in found.__module__:
            self.stop(f"the solution raised {short(answer.get('text'))}")
        error = found.__new__(found, *(args if found.__module__ == "builtins" else ()))
        error.args = args
        return error


def unbound(source):
    """Names that the tests use and nobody binds."""
    table = symtable.symtable(source, "tests.py", "exec")
    bound = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    used, tables = set(), [table]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        outer = table.get_type() == "module"
        used |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (outer or s.is_global())}
    return used - bound - set(dir(builtins))


def main():
    job = take_job()
    record = reporter(3, job["nonce"])
    entry_point, source = job["entry_point"], job["tests"]
    try:
        style, names = read_tests(source)
    except Broken as error:
        record(broken=str(error))
        return
    record(tests=names)
    solution = Solution(entry_point)
    if solution.failed is not None:
        record(failed=solution.failed)
        return
    foreign = unbound(source) - {entry_point}

    def guard(name):
        wrong, solution.wrong = solution.wrong, None
        return wrong

    def report(name, why, error):
        wrong, solution.wrong = solution.wrong, None
        missing = getattr(error, "name", None)
        theirs = not any(error is raised for raised in solution.raised)
        if isinstance(error, NameError) and missing in foreign and theirs:
            solution.broken = (
                f"the tests use `{missing}`, which they neither define nor import: only {entry_point} is there (with "
                'tests_run = "together", all that the solution defines)'
            )
        record(ran=name, why=why if why is not None else wrong)

    module = types.ModuleType("tests")
    sys.modules["tests"] = module
    # A function, so that it can be bound, named and inspected like one.
    stand_in = lambda *args, **kwargs: solution.call(*args, **kwargs)
    stand_in.__name__ = stand_in.__qualname__ = entry_point
    module.__dict__[entry_point] = stand_in
    try:
        run_tests(style, names, source, module.__dict__, entry_point, report, guard)
    except BaseException as error:
        if isinstance(error, Stop) or any(error is raised for raised in solution.raised):
            report(None, described(error), error)
        else:
            solution.broken = solution.broken or f"goal.tests can't be run: {described(error)}"
    if solution.broken is not None:
        record(broken=solution.broken)
    record(done=True)
    # Whatever threads the tests left.
    os._exit(0)


main()
