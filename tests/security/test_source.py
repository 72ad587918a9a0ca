"""The source reads nothing that could run code: no pickles, no archives, no text that is evaluated."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in ("framework", "plugins", "conf", "examples", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)

# Calls that run what they read, by the last names of the function.
FORBIDDEN = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "dill.load"),
    *("dill.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load", "pandas.read_pickle", "pd.read_pickle"),
    *("torch.load", "torch.jit.load", "torch.export.load", "torch.hub.load", "torch.package.PackageImporter"),
    *("cpp_extension.load", "cpp_extension.load_inline", "np.load", "numpy.load", "np.fromregex", "yaml.load"),
    *("yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "os.system"),
    *("os.popen", "hydra.utils.instantiate", "instantiate", "hydra.utils.call", "hydra.utils.get_class", "get_object"),
    *("hydra.utils.get_method", "gather_object", "dist.gather_object", "broadcast_object_list", "all_gather_object"),
    *(
        "scatter_object_list",
        "recv_object_list",
        "send_object_list",
        "importlib.import_module",
        "extractall",
        "extract",
    ),
    *("shutil.unpack_archive", "runpy.run_path", "runpy.run_module", "ctypes.CDLL", "ctypes.cdll.LoadLibrary"),
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
# Where one of them is right, and why.
ALLOWED = {
    ("batchmill/__init__.py", "importlib.import_module"): "names of its own table",
    ("batchmill/settings/__init__.py", "importlib.import_module"): "names of its own table",
    ("batchmill/components.py", "importlib.import_module"): "what a loaded plugin registered by path",
    ("batchmill/engine/assembly.py", "importlib.import_module"): "module:attribute, after the check of allow_import",
    ("batchmill/launch/local_worker.py", "ctypes.CDLL"): "the C library that the process has, for prctl",
    ("batchmill_plugins/storage/_new_files.py", "ctypes.CDLL"): "the C library that the process has, for renameat2",
    ("batchmill_plugins/datasets/_arrays.py", "np.load"): "with allow_pickle=False",
    ("batchmill_plugins/processors/_model_files.py", "torch.jit.load"): "after check_script",
    ("batchmill_plugins/processors/_model_files.py", "torch.export.load"): "after check_exported",
    ("batchmill_plugins/processors/_program_check.py", "torch.load"): "with weights_only=True",
    ("batchmill_plugins/writers/_safetensors.py", "numpy.load"): "that of safetensors, which knows no pickles",
}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def forbidden(name: str) -> str | None:
    if name in BUILTINS:
        return name
    parts = name.split(".")
    return next((end for i in range(len(parts)) if (end := ".".join(parts[i:])) in FORBIDDEN), None)


def short(path: Path) -> str:
    return "/".join(path.relative_to(ROOT).parts[1:])


def test_no_source_reads_what_can_run_code() -> None:
    found = {(short(path), name) for path in SOURCES for called, _ in calls(path) if (name := forbidden(called))}
    assert found - set(ALLOWED) == set(), "read JSON, safetensors, Arrow or numpy without pickles instead"
    assert set(ALLOWED) - found == set(), "no longer there: take it off the list"


def test_what_is_allowed_is_restricted() -> None:
    checked = 0
    for path in SOURCES:
        for called, node in calls(path):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called in ("np.load", "numpy.load"):
                checked += 1
                assert given.get("allow_pickle") == "False", path
            if called == "torch.load":
                checked += 1
                assert given.get("weights_only") == "True", path
            assert given.get("shell") != "True" and given.get("weights_only") != "False", path
    assert checked >= 3


def test_no_source_imports_a_pickle_library() -> None:
    names = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                module = node.module if isinstance(node, ast.ImportFrom) else ""
                names |= {(short(path), root) for alias in node.names if (root := (module or alias.name).split(".")[0])}
    risky = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "code", "runpy"}
    # The loader has to know the error that sending a dataset to loader processes raises.
    assert {(path, name) for path, name in names if name in risky} == {("batchmill/engine/loading.py", "pickle")}


def test_the_lint_would_see_one() -> None:
    for source in ("pickle.loads(x)", "torch.load(f)", "np.load(f, allow_pickle=True)", "a.b.yaml.load(x)", "eval(x)"):
        (called,) = [ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
        assert forbidden(called)
    assert not forbidden("json.loads") and not forbidden("storage.load") and not forbidden("re.compile_all")
