"""The page's server answers before the model's libraries are imported: they belong to the model's own process."""

import subprocess
import sys


def test_the_server_imports_neither_torch_nor_transformers_nor_ray():
    seen = "import sys, sam3ray.app; print(sorted({'torch', 'transformers', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
