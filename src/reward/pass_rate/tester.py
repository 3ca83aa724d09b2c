# The process of the tests, where the solution is apart: it has the tests, a stand-in for the solution's entry point,
# and the channel to the host. No code of the solution runs here.
#
# Alone, it says whether the tests are broken, which is decided without any solution: no call is answered then.
import importlib


class Stop(BaseException):
    """Ends a test that can't pass. No test catches it by catching Exception, nor asserts that it is raised."""


class Solution:
    def __init__(self, entry_point, alone, loaded):
        self.entry_point, self.alone, self.loaded = entry_point, alone, loaded
        # Why the current test can't pass, whatever else happens in it; and why the tests may be broken.
        self.wrong, self.broken = None, None
        # Exceptions that the solution raised: what they say is not about the tests.
        self.raised = []
        self.failed = None if alone else self.meet()

    def meet(self):
        """Why the solution can't be loaded, if it can't."""
        try:
            hello = receive(5)
        except Exception:
            hello = {"failed": "it writes where it should not"}
        failed = hello.get("failed") if type(hello) is dict else "its process ended while it was loaded"
        return None if failed is None else short(failed)

    def stop(self, why):
        self.wrong = self.wrong or why
        raise Stop(why)

    def call(self, *args, **kwargs):
        self.loaded()
        try:
            request = {"args": [encode(arg) for arg in args], "kwargs": {k: encode(v) for k, v in kwargs.items()}}
        except Exception as what:
            self.broken = untravelled(self.entry_point, what)
            self.stop(self.broken)
        if self.alone:
            self.stop("there is no solution")
        try:
            send(4, request)
        except Exception as why:
            over = isinstance(why, OSError)
            self.stop("the solution's process has ended" if over else f"the call can't be sent: {short(why)}")
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


def ownerless(error):
    """True if no solution can prevent this error of the tests: all that it shares with them is the folder."""
    name = getattr(error, "filename", None)
    if not isinstance(error, OSError) or name is None:
        return True
    folder = os.path.realpath(os.getcwd())
    return not isinstance(name, (str, bytes)) or not os.path.realpath(os.fsdecode(name)).startswith(folder + "/")


def main():
    job = take_job()
    record = reporter(3, job["nonce"])
    entry_point, source, alone = job["entry_point"], job["tests"], job["alone"]
    try:
        style, names = read_tests(source)
        look_at(source, entry_point)
    except Broken as error:
        record(broken=str(error))
        return
    record(tests=names)
    begun = []

    def loaded():
        if not begun:
            begun.append(True)
            record(loaded=True)

    solution = Solution(entry_point, alone, loaded)
    if solution.failed is not None:
        record(failed=solution.failed)
        return

    def guard(name):
        wrong, solution.wrong = solution.wrong, None
        return wrong

    def report(name, why, error):
        wrong, solution.wrong = solution.wrong, None
        record(ran=name, why=why if why is not None else wrong)

    module = types.ModuleType("tests")
    sys.modules["tests"] = module
    # A function, so that it can be bound, named and inspected like one.
    stand_in = lambda *args, **kwargs: solution.call(*args, **kwargs)
    stand_in.__name__ = stand_in.__qualname__ = entry_point
    module.__dict__[entry_point] = stand_in
    try:
        run_tests(style, names, source, module.__dict__, entry_point, report, guard, loaded=loaded)
    except BaseException as error:
        report(None, described(error), error)
        theirs = not isinstance(error, Stop) and not any(error is raised for raised in solution.raised)
        if theirs and not (alone and (begun or not ownerless(error))):
            solution.broken = solution.broken or f"goal.tests can't be run: {described(error)}"
    if solution.broken is not None:
        record(broken=solution.broken)
    record(done=True)
    # Whatever threads the tests left.
    os._exit(0)


main()
