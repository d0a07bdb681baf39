"""Builds the CPU kernels if PyTorch and a compiler are at hand; everything else is in pyproject.toml.

EMPOOL_BUILD=0 skips them. EMPOOL_SANITIZE=address,undefined builds them with these sanitizers.
"""

import os
import re
import sys
import sysconfig
from pathlib import Path

from setuptools import setup

TARGET = "0x020a000000000000"  # The stable ABI of PyTorch 2.10, which later versions keep.


def _extension():
    """Return the arguments of `setup` that build `empool._C`: none if it is not wanted, or PyTorch is not installed."""
    if os.environ.get("EMPOOL_BUILD", "1") == "0":
        return {}
    # pip builds in an environment of its own, without PyTorch: that of the environment it installs into serves.
    sys.path += [path for path in map(sysconfig.get_path, ("purelib", "platlib")) if path not in sys.path]
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except (ImportError, OSError):  # OSError: a PyTorch with a library missing.
        return {}
    compile_args = ["-std=c++20", "-O2", "-ffp-contract=off", "-fvisibility=hidden", "-Wno-psabi", "-g0"]
    link_args = []
    if sanitize := os.environ.get("EMPOOL_SANITIZE"):
        link_args = [f"-fsanitize={sanitize}"]
        compile_args += [*link_args, "-O1", "-g1", "-fno-sanitize-recover=all"]
    root = Path("src/empool/csrc")
    extension = CppExtension(
        "empool._C",
        sorted(map(str, root.glob("*.cpp"))),
        depends=sorted(map(str, root.glob("*.h"))),
        define_macros=[("TORCH_TARGET_VERSION", TARGET)],
        extra_compile_args={"cxx": compile_args},
        extra_link_args=link_args,
        py_limited_api=True,
        optional=True,
    )

    class Build(BuildExtension):
        """Carries on without the extension where `optional` alone does not: no compiler, or ninja failed."""

        def build_extensions(self):
            try:
                super().build_extensions()
            except Exception as error:
                self.warn(f"empool is installed without its CPU kernels, the reference replaces them: {error}")
                self.extensions = []

    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": Build},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


def _readme():
    """Return README.md for PyPI's page: links into the repository lead to its home, which pyproject.toml names."""
    home = re.search('^Source = "(.*)"$', Path("pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    text = Path("README.md").read_text(encoding="utf-8")
    text = re.sub(r'(!\[[^\]]*\]\(|<img src=")(?!https?:)', rf"\g<1>{home}/raw/main/", text)
    return re.sub(r"(?<!!)(\[[^\]]*\]\()(?!https?:|#)", rf"\g<1>{home}/blob/main/", text)


setup(long_description=_readme(), long_description_content_type="text/markdown", **_extension())
