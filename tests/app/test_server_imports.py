"""The page's server answers before the model's libraries are imported: they belong to the model's own process."""

import subprocess
import sys

import pytest


def test_the_server_imports_neither_torch_nor_transformers_nor_ray():
    seen = "import sys, sam3ray.app; print(sorted({'torch', 'transformers', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["fastapi", "uvicorn", "rjsmin"])
def test_what_the_page_needs_and_is_not_installed_is_named(name):
    """Older installations lack the newest of them."""
    code = f"import sys; sys.modules['{name}'] = None; from sam3ray.cli import main; sys.exit(main(['app']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"the page needs {name}: pip install 'sam3ray[app]'" in done.stderr
