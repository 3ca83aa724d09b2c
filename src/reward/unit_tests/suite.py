# What tests there are, by reading them, and how they are run and reported.
import ast
import dis
import types
import unittest


class Broken(Exception):
    """The tests can't be run, whatever the solution is."""


def _calls_itself_test_case(base):
    name = base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
    return name in ("TestCase", "IsolatedAsyncioTestCase")


def _methods(name, classes, seen):
    """Names of test methods of a class, and whether it is a test case; bases first."""
    if name in seen or name not in classes:
        return [], False
    names, is_case = [], False
    for base in classes[name].bases:
        is_case = is_case or _calls_itself_test_case(base)
        inherited, inherits = _methods(getattr(base, "id", ""), classes, seen | {name})
        names += inherited
        is_case = is_case or inherits
    own = [node for node in classes[name].body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    names += [node.name for node in own if node.name.startswith("test")]
    return list(dict.fromkeys(names)), is_case


def read_tests(source):
    """(style, names): the tests that there are. Styles: unittest, check, asserts."""
    try:
        tree = ast.parse(source, "tests.py")
    except (SyntaxError, ValueError) as error:
        raise Broken(f"goal.tests is not Python: {error}") from None
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    names = []
    for name in classes:
        methods, is_case = _methods(name, classes, frozenset())
        if is_case:
            names += [f"{name}.{method}" for method in methods]
    if names:
        return "unittest", names
    if any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body):
        return "check", ["check"]
    names = [f"assert in line {node.lineno}" for node in tree.body if isinstance(node, ast.Assert)]
    if names:
        return "asserts", names
    raise Broken(
        "goal.tests has no tests: it takes a unittest.TestCase with methods test…, a function check(candidate), or "
        "assert statements that are not inside anything"
    )


def described(error):
    """An exception in a line, with the line of the tests that it came from."""
    line, step = None, error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == "tests.py":
            line = step.tb_lineno
        step = step.tb_next
    where = "" if line is None else f" (line {line} of the tests)"
    return f"{type(error).__name__}: {short(error)}{where}"


def one_test(report, guard, name, run):
    """Runs a test that is a function, and reports it."""
    before = guard(name)
    try:
        run()
    except BaseException as error:
        report(name, described(error), error)
    else:
        report(name, before or guard(name), None)


class Reporter(unittest.TestResult):
    """Reports each test of a unittest as it ends. `guard(name)` says what else is wrong with it, if anything."""

    def __init__(self, report, guard):
        super().__init__()
        self._report, self._guard = report, guard
        self._passed, self._why, self._error = False, None, None

    def _name(self, test):
        return f"{type(test).__qualname__}.{getattr(test, '_testMethodName', '')}"

    def _fail(self, why, error=None):
        if self._why is None:
            self._why, self._error = why, error

    def startTest(self, test):
        self._passed, self._why, self._error = False, None, None
        why = self._guard(self._name(test))
        if why is not None:
            self._fail(why)

    def stopTest(self, test):
        why = self._guard(self._name(test))
        if why is not None:
            self._fail(why)
        if not self._passed:
            self._fail("it did not end as a test that passes")
        self._report(self._name(test), self._why, self._error)

    def addSuccess(self, test):
        self._passed = True

    def addFailure(self, test, err):
        self._fail(described(err[1]), err[1])
        if not isinstance(test, unittest.TestCase):
            # A fixture of a class or module: its tests don't run.
            self._report(None, described(err[1]), err[1])

    addError = addFailure

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self._fail(described(err[1]), err[1])

    def addSkip(self, test, reason):
        self._fail(f"it was skipped: {short(reason)}")

    def addExpectedFailure(self, test, err):
        self._fail("it fails as expected, which does not count as a pass")

    def addUnexpectedSuccess(self, test):
        self._fail("it was expected to fail")


def run_unittest(namespace, names, report, guard, check_method):
    cases = {}
    for name in names:
        kind, method = name.split(".")
        case = namespace.get(kind)
        if not (isinstance(case, type) and issubclass(case, unittest.TestCase)):
            report(name, f"{kind} is not a TestCase", None)
            continue
        why = check_method(getattr(case, method, None))
        if why is not None:
            report(name, why, None)
            continue
        cases.setdefault(kind, []).append(case(method))
    # A suite for each class: it runs the class's fixtures.
    unittest.TestSuite(unittest.TestSuite(tests) for tests in cases.values()).run(Reporter(report, guard))


def run_asserts(source, namespace, report, guard):
    for node in ast.parse(source, "tests.py").body:
        code = compile(ast.Module([node], []), "tests.py", "exec")
        if isinstance(node, ast.Assert):
            one_test(report, guard, f"assert in line {node.lineno}", lambda: exec(code, namespace))
        else:
            exec(code, namespace)


def run_tests(
    style, names, source, namespace, entry_point, report, guard, checker=lambda code: lambda method: None,
    loaded=lambda: None,
):
    """Loads and runs the tests of `source` in `namespace`."""
    if style == "asserts":
        return run_asserts(source, namespace, report, guard)
    code = compile(source, "tests.py", "exec")
    exec(code, namespace)
    loaded()
    if style == "unittest":
        return run_unittest(namespace, names, report, guard, checker(code))
    one_test(report, guard, "check", lambda: namespace["check"](namespace[entry_point]))


def reporter(fd, nonce):
    """Writes records to the host, one a line."""
    write, dumps = os.write, json.dumps

    def send(**record):
        data = dumps({"nonce": nonce, **record}).encode() + b"\n"
        while data:
            data = data[write(fd, data):]

    return send
