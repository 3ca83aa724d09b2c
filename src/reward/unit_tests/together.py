# Solution and tests in one interpreter. What could be patched is compared with what it was before the solution was
# loaded; code that searches the interpreter's memory for this program's own variables can still forge a verdict.
import builtins


# What tests themselves replace for a while.
REPLACED = {"print", "open", "input", "__import__", "_"}


def snapshot():
    """A function that says what has changed since."""
    places = [unittest, unittest.case, unittest.suite, unittest.result, builtins]
    places += [unittest.TestCase, unittest.TestResult, unittest.TestSuite, unittest.BaseTestSuite, Reporter]
    places += [unittest.case._Outcome, unittest.case._AssertRaisesContext, unittest.case._AssertRaisesBaseContext]
    before = [(place, name, value) for place in places for name, value in vars(place).items() if name not in REPLACED]
    read = vars

    def changed():
        for place, name, value in before:
            if read(place).get(name) is not value:
                return f"the solution replaced {place.__name__}.{name}"
        return None

    return changed


def own_methods(code):
    """A function that says whether a method is one of the compiled tests."""
    codes, rest = [], [code]
    while rest:
        inner = [const for const in rest.pop().co_consts if isinstance(const, types.CodeType)]
        codes += inner
        rest += inner

    def check(method):
        for _ in range(20):
            if any(getattr(method, "__code__", None) is known for known in codes):
                return None
            method = getattr(method, "__wrapped__", None)
        return "it is not the tests' own method"

    return check


def main():
    job = take_job()
    record = reporter(3, job["nonce"])
    style, names = read_tests(job["tests"])
    tests, entry_point = job["tests"], job["entry_point"]
    # unittest takes this exception of its own for the end of a test that passed. No class is left that could be raised.
    unittest.case._ShouldStop = ()
    changed, run, leave = snapshot(), run_tests, os._exit
    module = types.ModuleType("__test__")
    sys.modules["__test__"] = module

    def report(name, why, error):
        record(ran=name, why=why)

    try:
        exec(compile(job["code"], "solution.py", "exec"), module.__dict__)
    except BaseException as error:
        record(failed=f"it cannot be loaded: {type(error).__name__}: {short(error)}")
        return
    try:
        run(style, names, tests, module.__dict__, entry_point, report, lambda name: changed(), own_methods)
    except BaseException as error:
        report(None, described(error), error)
    record(done=True)
    leave(0)


main()
