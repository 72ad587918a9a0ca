import subprocess
import sys

import pytest

from batchmill.components import Kind
from batchmill.plugin_manager import get_catalog


@pytest.mark.parametrize(
    ("name", "found"),
    [("local", "local"), ("file", "local"), ("memory", "memory"), ("object_store", "object_store")]
    + [(scheme, "object_store") for scheme in ("s3", "s3a", "gs", "az", "abfs")],
)
def test_storage_is_found_by_name_and_by_scheme(name, found):
    component = get_catalog().registry.get(Kind.STORAGE, name)
    assert component.name == found
    assert component.schema() is not None
    assert component.load().__doc__


def test_registering_imports_nothing_heavy():
    code = (
        "import sys, batchmill_plugins.storage as s; from batchmill.components import ComponentRegistry; "
        "r = ComponentRegistry(); s.register_components(r); "
        "print(len(list(r)), sorted({'torch', 'numpy', 'pyarrow', 'obstore'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "3 []\n"
