# What is wrong with tests whatever the solution is, by reading them. No code of the tests or of the solution runs here.
import builtins
import importlib.util

# Tests that use one of these may bind names, or make modules, in ways that reading doesn't tell.
_BINDERS = {
    "NameError", "__builtins__", "__dict__", "builtins", "eval", "exec", "globals", "locals", "setattr", "vars",
}
_IMPORTERS = {"exec", "eval", "importlib", "sys", "syspath_prepend"}


def _names(code):
    """Names that the code, and what is inside it, reads from its module; and names that it binds there."""
    used, bound, rest = set(), set(), [(code, True)]
    while rest:
        code, outer = rest.pop()
        own = set()
        for step in dis.get_instructions(code):
            if step.opname in ("STORE_NAME", "STORE_GLOBAL"):
                own.add(step.argval)
                if outer or step.opname == "STORE_GLOBAL":
                    bound.add(step.argval)
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS") and step.argval not in own:
                used.add(step.argval)
        # Annotations that nobody may ever ask for.
        inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
        rest += [(const, False) for const in inner if const.co_name != "__annotate__"]
    return used, bound


def _imports(node):
    """Names of the packages that are imported unconditionally, at any depth of functions and classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and not child.level:
            yield child.module.partition(".")[0]
        elif not isinstance(child, (ast.If, ast.Try, ast.expr)):
            yield from _imports(child)


def _there(name):
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _given(tree, entry_point):
    """Functions and classes, by name, that the tests give to the entry point: values that don't travel."""
    defined = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    stored |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    known = (defined | set(dir(builtins))) - stored
    called = {entry_point}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "check":
            called |= {arg.arg for arg in node.args.args[:1]}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in called:
            for value in node.args + [keyword.value for keyword in node.keywords]:
                if isinstance(value, ast.Lambda):
                    yield "a lambda"
                elif isinstance(value, ast.Name) and value.id in known and not value.id.startswith("__"):
                    yield f"`{value.id}`"


def untravelled(entry_point, what):
    return (
        f"the tests give {entry_point} {short(what)}, which does not travel to the solution's process: use "
        'tests_run = "together"'
    )


def look_at(source, entry_point):
    """Raises Broken where tests that are apart from the solution can't be run."""
    tree = ast.parse(source, "tests.py")
    for what in _given(tree, entry_point):
        raise Broken(untravelled(entry_point, what))
    mentioned = {getattr(node, "id", getattr(node, "attr", None)) for node in ast.walk(tree)}
    if mentioned.isdisjoint(_IMPORTERS):
        for name in _imports(tree):
            if not _there(name):
                raise Broken(f"goal.tests imports `{name}`, which the interpreter and `packages` don't have")
    starred = any(isinstance(node, ast.alias) and node.name == "*" for node in ast.walk(tree))
    if starred or not mentioned.isdisjoint(_BINDERS):
        return
    used, bound = _names(compile(source, "tests.py", "exec"))
    missing = used - bound - set(dir(builtins)) - {entry_point}
    for name in sorted(missing):
        # The interpreter's own names, such as those of annotations, come and go with its version.
        if not name.startswith("__"):
            raise Broken(
                f"the tests use `{name}`, which they neither define nor import: only {entry_point} is there (with "
                'tests_run = "together", all that the solution defines)'
            )
