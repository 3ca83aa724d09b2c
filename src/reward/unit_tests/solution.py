# The process of the solution: loads it, and calls its entry point whenever the tests' process asks for it (descriptor 4
# in, 5 out). What it answers is only an answer: it has no part in the verdict.
import types


def _described(error):
    try:
        args = [encode(arg) for arg in error.args]
    except Exception:
        args = [str(error)]
    # The nearest class that the other side can know.
    for kind in type(error).__mro__:
        if kind.__module__.partition(".")[0] in sys.stdlib_module_names:
            return {"raised": [kind.__module__, kind.__qualname__], "args": args, "text": short(repr(error))}


def _answer(function, request):
    try:
        args = [decode(arg) for arg in request["args"]]
        value = function(*args, **{name: decode(arg) for name, arg in request["kwargs"].items()})
    except BaseException as error:
        return _described(error)
    try:
        return {"value": encode(value)}
    except Unpassable as why:
        return {"unpassable": str(why)}
    except Exception as error:
        return {"unpassable": f"a value that cannot be written ({short(repr(error))})"}


def main():
    job = take_job()
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    try:
        exec(compile(job["code"], "solution.py", "exec"), module.__dict__)
        function = module.__dict__[job["entry_point"]]
    except KeyError:
        send(5, {"failed": f"it doesn't define {job['entry_point']}"})
        return
    except BaseException as error:
        send(5, {"failed": f"it cannot be loaded: {short(repr(error))}"})
        return
    send(5, {"ready": True})
    while (request := receive(4)) is not None:
        answer = _answer(function, request)
        try:
            send(5, answer)
        except Exception as error:
            send(5, {"unpassable": short(repr(error))})


main()
