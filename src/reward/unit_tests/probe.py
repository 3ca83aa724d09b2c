# Tells where the interpreter and its library are.
import json
import os
import sys
import sysconfig

paths = [sys.executable, os.path.realpath(sys.executable), os.path.join(sys.prefix, "pyvenv.cfg"), *sys.path]
paths += [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
if sysconfig.get_config_var("Py_ENABLE_SHARED"):
    paths.append(os.path.join(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")))
paths = [path for path in paths if path and os.path.exists(path)]
os.write(3, json.dumps({"executable": sys.executable, "version": sys.version_info[:2], "paths": paths}).encode())
